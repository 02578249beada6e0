//! Whose a new file of the log is: that of the file that it replaces, or of the folder. So a tool that another user runs, as root
//! does, leaves nothing that the server's user cannot read.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use super::files::{draft_of, folder_of};

/// The mode of a file that replaces none.
const MODE: u32 = 0o600;

/// An empty draft of a file, with the owner and the mode of what it will replace.
///
/// # Errors
/// What the kernel says.
pub fn draft_like(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let draft = options.read(true).write(true).create(true).truncate(true).mode(MODE).open(draft_of(path))?;
    let like = if path.exists() { path } else { folder_of(path) };
    own_as(&draft, path, like).map(|()| draft)
}

/// Gives a file, which is to be at that path, the owner of another, and its mode if it is the one that was there.
///
/// # Errors
/// What the kernel says.
pub fn own_as(file: &File, path: &Path, like: &Path) -> io::Result<()> {
    let (like_it, is) = (fs::metadata(like)?, file.metadata()?);
    if (like_it.uid(), like_it.gid()) != (is.uid(), is.gid()) {
        fchown(file, Some(like_it.uid()), Some(like_it.gid()))?;
    }
    let mode = if like == path { like_it.mode() & 0o777 } else { MODE };
    file.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_whose_its_file_is_and_else_whose_the_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it");
        let of =
            |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid(), found.mode() & 0o777)).unwrap();
        // Only root may give a file away.
        let (owner, file_owner) =
            if of(folder.path()).0 == 0 { (4_321, 4_322) } else { (of(folder.path()).0, of(folder.path()).0) };
        std::os::unix::fs::chown(folder.path(), Some(owner), None).unwrap();
        draft_like(&path).unwrap();
        assert_eq!((of(&draft_of(&path)).0, of(&draft_of(&path)).2), (owner, MODE));
        fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(file_owner), None).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        draft_like(&path).unwrap();
        assert_eq!(of(&draft_of(&path)), of(&path));
    }
}
