//! Lists the LVM volumes in disks and disk images, and how full their snapshots are.
//!
//! ```text
//! cargo run -p dmsnap-images --example list_volumes -- IMAGE...
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use compio::runtime::Runtime;
use dmsnap::device::Device;
use dmsnap::ops;
use dmsnap_images::Scan;

fn main() -> Result<(), Box<dyn Error>> {
    let images: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    list_volumes(&images, &mut io::stdout().lock())
}

/// One line for each volume, and one more for each snapshot.
pub(crate) fn list_volumes(images: &[PathBuf], out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    Runtime::new()?.block_on(async {
        // Nothing is locked or written.
        let scan = Scan::look(images, |warning| eprintln!("warning: {warning}")).await?;
        scan.warnings().for_each(|warning| eprintln!("warning: {warning}"));
        for group in scan.groups() {
            for volume in group.volumes() {
                let name = group.name_of(volume);
                // Of a snapshot this is its COW device.
                let Ok(device) = group.device(volume) else {
                    writeln!(out, "{name}: of a type that cannot be read")?;
                    continue;
                };
                writeln!(out, "{name}: {} bytes", device.len_bytes()?)?;
                if let Some(origin) = group.origin(volume) {
                    let used = ops::info(&device).await?.percent;
                    writeln!(out, "  snapshot of {}, {used:.1} % used", origin.name)?;
                }
            }
        }
        Ok(())
    })
}
