//! Starts the program again with an allocator that suits tensors.
//!
//! glibc gives large blocks back to the kernel as soon as they are freed, so every step would
//! fault in hundreds of megabytes anew: up to half of its time. Its settings are read once, before
//! `main`, from the environment; so the program puts them there and executes itself again. The
//! process id, the arguments and everything else that is inherited stay as they are.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What is set unless the user has set it: huge pages, no separate mapping for large blocks,
/// freed memory is kept up to 16 GiB, and one arena for all threads (lanes otherwise keep an arena
/// each, and none is used well).
const TUNABLES: [(&str, &str); 4] = [
    ("glibc.malloc.hugetlb", "1"),
    ("glibc.malloc.mmap_max", "0"),
    ("glibc.malloc.trim_threshold", "17179869184"),
    ("glibc.malloc.arena_max", "1"),
];
/// Set by the first start for the second.
const MARK: &str = "CONVOY_TUNED";
/// The user's way out.
const OPT_OUT: &str = "CONVOY_NO_REEXEC";

/// Executes the program again with the settings; returns when they are there, are not wanted, or
/// cannot be had. Must be called first in `main`, before there is a thread or an open file.
pub fn ensure_tuned() {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set(MARK) {
        // Otherwise `ps` shows the link that was executed; a wrong name is no reason to stop.
        let _ = rustix::thread::set_name(c"convoy-worker");
    }
    if !cfg!(target_env = "gnu") || set(MARK) || set(OPT_OUT) {
        return;
    }
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    let own = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).env("GLIBC_TUNABLES", merged(&own)).env(MARK, "1");
    for threads in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        // Kernels have one thread each unless a lane says otherwise; cores are used by lanes.
        if !set(threads) {
            command.env(threads, OsString::from("1"));
        }
    }
    // Returns only if it failed; then the program runs on, only slower.
    let _ = command.exec();
}

/// The user's settings, then those of [`TUNABLES`] that the user did not make.
fn merged(own: &str) -> String {
    let mut settings: Vec<String> =
        own.split(':').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    for (name, value) in TUNABLES {
        let taken = settings.iter().any(|s| s.split('=').next() == Some(name));
        if !taken {
            settings.push(format!("{name}={value}"));
        }
    }
    settings.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_own_settings_all_are_made() {
        assert_eq!(
            merged(""),
            "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:\
             glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1"
        );
    }

    #[test]
    fn the_users_own_settings_win() {
        let settings = merged("glibc.malloc.arena_max=4:glibc.malloc.check=1");
        assert!(settings.starts_with("glibc.malloc.arena_max=4:glibc.malloc.check=1:"));
        assert_eq!(settings.matches("arena_max").count(), 1);
    }
}
