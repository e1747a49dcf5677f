use crate::output::Output;
use crate::report::{Failure, Plain};

/// Columns under their heads: as wide as what stands in them, two blanks apart. Control characters are
/// escaped before the width is taken.
pub(crate) fn show<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    out: &mut Output,
) -> Result<(), Failure> {
    let rows = rows.into_iter().map(|row| row.map(|cell| Plain(&cell).to_string()));
    let all: Vec<_> = [heads.map(str::to_owned)].into_iter().chain(rows).collect();
    let widths: [usize; N] = std::array::from_fn(|n| {
        all.iter().map(|row| row[n].chars().count()).max().unwrap_or_default()
    });
    for row in &all {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        out.line(cells.collect::<String>().trim_end())?;
    }
    Ok(())
}
