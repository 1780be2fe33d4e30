//! The program gives itself the allocator's settings: seen from outside, on the real binary.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_convoy-worker");

/// A process that is ended whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something that takes long enough to be looked at.
fn start(environment: &[(&str, &str)]) -> Running {
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "step", "--steps", "100000", "--device", "cpu"]);
    command
        .env_remove("GLIBC_TUNABLES")
        .env_remove("OMP_NUM_THREADS")
        .envs(environment.iter().copied());
    Running(
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"),
    )
}

fn proc_file(pid: u32, name: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The process's environment once it holds `wanted`; the test fails after a while without it.
fn environment_with(pid: u32, wanted: &str) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let environment = proc_file(pid, "environ");
        if environment.contains(wanted) {
            return environment;
        }
        assert!(Instant::now() < end, "{wanted} never came up in {environment}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn settings_appear_in_the_same_process_with_the_same_arguments() {
    let running = start(&[("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")]);
    let pid = running.0.id();
    let environment = environment_with(pid, "glibc.malloc.mmap_max=0");
    // The dynamic linker cuts the settings apart where it has read them.
    assert!(environment.contains("GLIBC_TUNABLES=glibc.malloc.arena_max=3"), "{environment}");
    assert_eq!(environment.matches("arena_max").count(), 1, "{environment}");
    assert!(environment.contains("OMP_NUM_THREADS=1\0"), "{environment}");
    let arguments = proc_file(pid, "cmdline");
    assert_eq!(arguments, format!("{PROGRAM}\0bench\0step\0--steps\0100000\0--device\0cpu\0"));
}

#[test]
fn the_user_can_forbid_it() {
    let running = start(&[("CONVOY_NO_REEXEC", "1")]);
    let pid = running.0.id();
    environment_with(pid, "CONVOY_NO_REEXEC=1");
    // Long after the point at which it would have happened: libtorch is loaded and at work.
    let end = Instant::now() + Duration::from_secs(30);
    while !proc_file(pid, "maps").contains("libtorch_cpu") {
        assert!(Instant::now() < end, "the program never started");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(!proc_file(pid, "environ").contains("GLIBC_TUNABLES"));
}

#[test]
fn the_layer_table_has_the_papers_numbers() {
    let output = Command::new(PROGRAM).args(["model"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let total = text.lines().last().unwrap();
    assert!(total.contains("60,965,224") && total.contains("659,272"), "{text}");
}
