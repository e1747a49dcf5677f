//! A connection to an NBD server: the shortest handshake, then whatever the caller sends.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use dmsnap_serve::nbd::codec::{OptionRequest, Request, Selection, command};

/// Chooses the export and begins transmission with simple replies. Returns the connection and the
/// export's size in bytes.
///
/// # Errors
///
/// What the connection says, or that the server refuses.
pub fn connect(socket: &Path, export: &str) -> io::Result<(UnixStream, u64)> {
    let mut stream = UnixStream::connect(socket)?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
        return Err(io::Error::other("no NBD server"));
    }
    stream.write_all(&3_u32.to_be_bytes())?;
    let go = OptionRequest::Go(Selection { name: export.into(), infos: Vec::new() });
    stream.write_all(&go.encode())?;
    let mut size_bytes = 0;
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| head[at + n]));
        let mut data = vec![0; number(16) as usize];
        stream.read_exact(&mut data)?;
        match (number(12), data.as_slice()) {
            (1, _) => return Ok((stream, size_bytes)),
            (3, [0, 0, size @ .., _, _]) => {
                let size = size.try_into().map_err(io::Error::other)?;
                size_bytes = u64::from_be_bytes(size);
            }
            (3, _) => {}
            (kind, _) => {
                let why = String::from_utf8_lossy(&data);
                return Err(io::Error::other(format!("export {export} refused: {kind:#x} {why}")));
            }
        }
    }
}

/// Says good-bye and waits until the server has closed.
///
/// # Errors
///
/// What the connection says.
pub fn disconnect(mut stream: UnixStream) -> io::Result<()> {
    let bye = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, len: 0 };
    stream.write_all(&bye.encode())?;
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}
