//! Serves a file or a disk over NBD until the standard input ends.
//!
//! ```text
//! cargo run --example serve_file -- FILE unix:PATH|HOST:PORT [read-only]
//! ```

use std::error::Error;
use std::io::Read;
use std::path::Path;

use compio::runtime::{Runtime, spawn_blocking};
use dmsnap::device::{Caching, File, Mode};
use dmsnap_serve::nbd::{Export, Exports, Limits, Listener, Server};

struct Served {
    name: String,
    file: File,
    read_only: bool,
}

impl Export for Served {
    type Device = File;

    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> &File {
        &self.file
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve_file FILE unix:PATH|HOST:PORT [read-only]".into());
    };
    let read_only = arguments.next().is_some_and(|word| word == "read-only");
    Runtime::new()?.block_on(async {
        let mode = if read_only { Mode::Read } else { Mode::Write };
        let file = File::open(Path::new(&path), mode, Caching::Direct).await?;
        let exports = Exports::new();
        exports.add(Served { name: path, file, read_only })?;
        let listener = match address.strip_prefix("unix:") {
            Some(socket) => Listener::unix(Path::new(socket)).await?,
            None => Listener::tcp(address.as_str()).await?,
        };
        let input_ends = spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let shutdown = async { drop(input_ends.await) };
        Server::new(exports, Limits::default()).run(vec![listener], shutdown).await?;
        Ok(())
    })
}
