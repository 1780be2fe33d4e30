//! A small disk of its own, to be full: a file system in memory, where this process may mount one.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Gone at the end.
pub(crate) struct Disk {
    folder: TempDir,
}

impl Disk {
    /// One of so many KiB; none where this process may not mount, which takes root.
    pub(crate) fn of(kib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        mount(&format!("size={kib}k"), folder.path()).then(|| Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: somebody may hold a file of it.
        let unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(unmounted.is_ok_and(|it| it.success()), "{:?} stays mounted", self.folder.path());
    }
}

/// Gives the disk another size.
pub(crate) fn resize(disk: &Path, kib: u64) {
    assert!(mount(&format!("remount,size={kib}k"), disk), "{disk:?} keeps its size");
}

fn mount(options: &str, place: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place);
    command.output().is_ok_and(|it| it.status.success())
}
