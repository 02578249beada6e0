//! stub
use crate::sheet::Sheet;
/// The page.
pub fn page(_sheets: &[Sheet]) -> String {
    String::new()
}
