//! A whole job as a user launches it: the real programs as real processes, on a tiny data set.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// For what should happen soon, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// `convoy`, which a build of the workspace puts beside the worker.
pub(crate) fn convoy() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_convoy-worker")).with_file_name("convoy");
    assert!(path.exists(), "{} is missing: run the tests with --workspace", path.display());
    path
}

/// Runs a command to its end.
pub(crate) fn run(program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// The same, which must go well; gives what it wrote to stdout.
pub(crate) fn done(program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(program, arguments, variables);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Drawn JPEG files in ImageNet's layout: 24 to train on, 6 held out, 3 classes.
pub(crate) fn images() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = format!("{}/job-images", env!("CARGO_TARGET_TMPDIR"));
        let counts = ["--classes", "3", "--train", "24", "--val", "6", "--reuse"];
        done(&convoy(), &[&["synthesize", &folder][..], &counts].concat(), &[]);
        folder
    })
}

/// A folder with a packed data set and room for runs.
pub(crate) struct Place {
    folder: TempDir,
    variables: Vec<(String, String)>,
    /// Where runs are: a folder or a bucket.
    base: String,
}

impl Place {
    /// Everything in a folder.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().to_str().expect("a name").to_owned();
        Self::packed(folder, base, Vec::new())
    }

    /// Data and runs under `base`, which the variables give access to.
    pub(crate) fn at(base: &str, variables: Vec<(String, String)>) -> Self {
        Self::packed(tempfile::tempdir().expect("a folder"), base.to_owned(), variables)
    }

    fn packed(folder: TempDir, base: String, variables: Vec<(String, String)>) -> Self {
        let place = Self { folder, variables, base };
        place.convoy(&["prepare", images(), &place.url("data")]);
        place
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What gives processes access to the place.
    pub(crate) fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// `convoy` with these arguments, which must go well; gives its stdout.
    pub(crate) fn convoy(&self, arguments: &[&str]) -> String {
        done(&convoy(), arguments, &self.variables())
    }

    /// The newest checkpoint of the run, as `convoy checkpoints show --json` tells it.
    pub(crate) fn checkpoint(&self, run: &str) -> Value {
        let text = self.convoy(&["checkpoints", "show", &self.url(run), "--json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The config of a run of 24 epochs with 3 steps each.
    pub(crate) fn config(&self, run: &str) -> PathBuf {
        let (url, data, logs) = (self.url(run), self.url("data"), self.path("logs"));
        let cache = self.path("cache").display().to_string();
        let text = format!(
            "run = {{ name = '{run}', url = '{url}', seed = 3 }}
             data = {{ url = '{data}', cache = '{cache}' }}
             model = {{ narrow = 16, init = 'kaiming', pixel_scale = 0.01, fc_bias = 0.0 }}
             train = {{ epochs = 24, batch = 8, lr = 0.01 }}
             schedule = {{ kind = 'constant' }}
             numerics = {{ microbatch = 4 }}
             checkpoint = {{ every_steps = 0, every_epochs = 0 }}
             evaluation = {{ every_epochs = 12 }}
             cluster = {{ workers = 2, bind = '127.0.0.1:0', liveness_timeout = '10s' }}
             log = {{ every_steps = 2, folder = '{}/{{run}}' }}",
            logs.display()
        );
        let path = self.path(&format!("{run}.toml"));
        fs::write(&path, text).expect("a config");
        path
    }

    /// Launches a run of this config.
    pub(crate) fn launch(&self, config: &Path, options: &[&str]) -> Job {
        let stderr =
            self.path(&format!("stderr-{}", config.file_stem().expect("a name").display()));
        let launcher = Command::new(convoy())
            .arg("launch")
            .arg(config)
            .args(["--worker-binary", env!("CARGO_BIN_EXE_convoy-worker")])
            .args(options)
            .envs(self.variables())
            .stdin(Stdio::null())
            .stderr(fs::File::create(&stderr).expect("a file"))
            .process_group(0)
            .spawn()
            .expect("the launcher");
        Job { launcher, stderr }
    }
}

/// A launched job.
pub(crate) struct Job {
    launcher: Child,
    stderr: PathBuf,
}

impl Job {
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).expect("a file")
    }

    /// Waits until the job has told this.
    pub(crate) fn tells(&mut self, what: &str) {
        self.tells_so_often(what, 1);
    }

    /// The same so many times.
    pub(crate) fn tells_so_often(&mut self, what: &str, times: usize) {
        let start = Instant::now();
        while self.stderr().matches(what).count() < times {
            let ended = self.launcher.try_wait().expect("a status");
            assert!(
                ended.is_none() && start.elapsed() < SOON,
                "never told '{what}' ({ended:?}):\n{}",
                self.stderr()
            );
            sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.launcher), signal).expect("the launcher lives");
    }

    /// Processes of the launcher whose command line names `program`.
    pub(crate) fn children(&self, program: &str) -> Vec<u32> {
        let parent = self.launcher.id();
        let list = format!("/proc/{parent}/task/{parent}/children");
        fs::read_to_string(list)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|it| it.parse().ok())
            .filter(|pid| command_line(*pid).contains(program))
            .collect()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.launcher.try_wait().expect("a status") {
                return status;
            }
            assert!(start.elapsed() < SOON, "the job does not end:\n{}", self.stderr());
            sleep(Duration::from_millis(10));
        }
    }

    /// The job ends with this exit code.
    pub(crate) fn ends_with(&mut self, code: u8) {
        let status = self.wait();
        assert_eq!(status.code(), Some(i32::from(code)), "{}", self.stderr());
    }
}

/// A test that fails leaves nobody: the launcher takes its children along.
impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Whether the process runs; one that waits to be reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|it| it.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Waits until nobody of these is left.
pub(crate) fn all_gone(pids: &[u32], limit: Duration) {
    let start = Instant::now();
    while pids.iter().any(|it| is_alive(*it)) {
        assert!(start.elapsed() < limit, "{pids:?} not gone within {limit:?}");
        sleep(Duration::from_millis(10));
    }
}
