//! `merge`: adds up what several processes or machines printed.

use std::fs;

use crate::args::Merge;
use crate::fault::LoadFault;
use crate::output;
use crate::sheet::Sheet;
use crate::sheet::merging;

/// Reads, adds up, tells. True when all were verified.
///
/// # Errors
/// When a file cannot be read, or they do not add up.
pub fn run(job: &Merge) -> Result<bool, LoadFault> {
    let mut sheets = Vec::new();
    for path in &job.files {
        let unreadable = |why: String| LoadFault::Figures { path: path.clone(), why };
        let text = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        sheets.extend(output::sheets_in(&text).map_err(unreadable)?);
    }
    output::tell_all(&job.output, &by_name(sheets)?)
}

/// Those of one name become one, in the order in which the names came.
///
/// # Errors
/// When they do not add up.
pub fn by_name(sheets: Vec<Sheet>) -> Result<Vec<Sheet>, LoadFault> {
    let mut groups: Vec<Vec<Sheet>> = Vec::new();
    for sheet in sheets {
        match groups.iter_mut().find(|group| group[0].name == sheet.name) {
            Some(group) => group.push(sheet),
            None => groups.push(vec![sheet]),
        }
    }
    groups.iter().map(|group| Ok(merging::merge(group)?)).collect()
}
