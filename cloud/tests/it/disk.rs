//! A disk that is full, for real: a small file system in memory, where this machine lets one be mounted.

use gorgo_cloud::shell::local::LocalShell;
use gorgo_cloud::shell::{Command, Shell};
use std::path::{Path, PathBuf};

/// A file system of one megabyte; it is unmounted with this value.
pub(crate) struct Small(pub(crate) PathBuf);

impl Small {
    pub(crate) fn mount(place: &Path) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(place).stderr(std::process::Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(place.to_owned()));
        }
        eprintln!("skipped: no file system can be mounted here (it needs root)");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn an_upload_to_a_full_disk_is_explained_leaves_nothing_and_succeeds_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("node")) else { return };
    let shell: Box<dyn Shell> = Box::new(LocalShell::new(small.0.clone()).unwrap());
    shell.put("program", 0o755, b"old").await.unwrap();
    let error = shell.put("program", 0o755, &vec![1; 2 << 20]).await.unwrap_err();
    assert_eq!(error.meaning, "the disk is full", "{error}");
    assert_eq!(shell.get("program").await.unwrap(), b"old", "a file is replaced whole or not at all");
    assert_eq!(shell.must(&Command::new(&["ls"])).await.unwrap().text(), "program");
    shell.put("program", 0o755, &vec![1; 900 << 10]).await.unwrap();
    assert_eq!(shell.get("program").await.unwrap().len(), 900 << 10);
}
