//! An operator at work on a running job, with the real programs as real processes: status, a drop of
//! the rate by hand, a stop, going on, and a replay of it all.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use convoy_common::exit;
use serde_json::Value;
use tempfile::TempDir;

/// For what should happen soon, on a busy machine.
const SOON: Duration = Duration::from_secs(90);

/// `convoy`, which a build of the workspace puts beside the worker.
fn convoy(arguments: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_BIN_EXE_convoy-worker")).with_file_name("convoy");
    assert!(path.exists(), "{} is missing: run the tests with --workspace", path.display());
    Command::new(path).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The JSON that the command prints.
fn json(arguments: &[&str]) -> Value {
    let output = convoy(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder with a packed data set, a config and runs.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let (images, data) = (place.path("images"), place.path("data"));
        let counts = ["--classes", "3", "--train", "24", "--val", "6"];
        for arguments in [
            [&["synthesize", images.as_str()][..], &counts].concat(),
            vec!["prepare", &images, &data],
        ] {
            let output = convoy(&arguments);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let text = format!(
            "run = {{ url = '{}', seed = 3 }}
             data = {{ url = '{data}' }}
             model = {{ narrow = 16, init = 'kaiming', pixel_scale = 0.01, fc_bias = 0.0 }}
             train = {{ epochs = 5000, batch = 8, lr = 0.01 }}
             schedule = {{ kind = 'constant', warmup_steps = 2 }}
             numerics = {{ microbatch = 4 }}
             checkpoint = {{ every_steps = 0, every_epochs = 0 }}
             evaluation = {{ every_epochs = 0 }}
             cluster = {{ workers = 2, bind = '127.0.0.1:0', liveness_timeout = '10s' }}
             log = {{ every_steps = 2, folder = '{}' }}",
            place.path("run"),
            place.path("logs")
        );
        std::fs::write(place.config(), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("run.toml")
    }

    fn launch(&self, options: &[&str]) -> Launched {
        let path = Path::new(env!("CARGO_BIN_EXE_convoy-worker")).with_file_name("convoy");
        let errors = std::fs::File::create(self.path("stderr")).unwrap();
        let mut command = Command::new(path);
        command.arg("launch").arg(self.config()).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Launched { child: command.spawn().unwrap(), errors: self.path("stderr") }
    }

    /// Waits until the job has come to that step.
    fn reaches(&self, job: &mut Launched, step: u64) {
        let due = Instant::now() + SOON;
        loop {
            let output = convoy(&["status", &self.path("run"), "--json"]);
            if output.status.success() {
                let status: Value = serde_json::from_slice(&output.stdout).unwrap();
                if status["global_step"].as_u64().unwrap() >= step {
                    return;
                }
            }
            let ended = job.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < due, "{ended:?}: {}", job.said());
            sleep(Duration::from_millis(50));
        }
    }

    /// Step and digest of a run's newest checkpoint.
    fn state(&self, run: &str) -> (u64, String) {
        let shown = json(&["checkpoints", "show", &self.path(run), "--json"]);
        let digest = shown["state_digest"].as_str().unwrap().to_owned();
        (shown["step"].as_u64().unwrap(), digest)
    }
}

/// A launcher that is killed when the test is over.
struct Launched {
    child: Child,
    errors: String,
}

impl Drop for Launched {
    fn drop(&mut self) {
        // Gone already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Launched {
    fn ends_with(&mut self, code: u8) {
        let due = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(code.into()), "{}", self.said());
                return;
            }
            assert!(Instant::now() < due, "it does not end: {}", self.said());
            sleep(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }
}

#[test]
fn a_job_is_kept_paused_resumed_and_drained_by_hand_and_comes_to_the_bits_of_a_quiet_one() {
    let place = Place::new();
    let (run, config) = (place.path("run"), place.config().display().to_string());
    let mut job = place.launch(&[]);
    place.reaches(&mut job, 3);
    // By the name of the config, too, and under either name of the command.
    let kept = json(&["checkpoint", "now", &config, "--json"]);
    let path = kept["checkpoint"].as_str().unwrap();
    assert!(path.starts_with("checkpoints/1/"), "{path}");
    let (first, _) = place.state("run");
    assert!(first >= 3, "{first}");

    let paused = json(&["pause", &run, "--reason", "a new switch", "--json"]);
    assert!(paused["checkpoint"].is_string(), "{paused}");
    let status = json(&["status", &run, "--json"]);
    assert_eq!(
        (&status["phase"], &status["pause"]["reason"]),
        (&"paused".into(), &"a new switch".into())
    );
    let (held, _) = place.state("run");
    assert_eq!(status["global_step"], held);
    let said = convoy(&["status", &run]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("paused      since 20") && said.contains("(a new switch)"), "{said}");
    json(&["resume", &run, "--json"]);
    place.reaches(&mut job, held + 2);

    let workers = json(&["workers", "list", &run, "--json"]);
    assert_eq!(workers["workers"].as_array().unwrap().len(), 2);
    assert_eq!(workers["workers"][1]["name"], "worker-1");
    json(&["workers", "drain", &run, "worker-1", "--grace", "20s", "--json"]);
    let left = json(&["workers", "list", &run, "--json"]);
    assert_eq!(left["workers"].as_array().unwrap().len(), 1);
    let unknown = convoy(&["workers", "drain", &run, "nobody"]);
    assert_eq!(unknown.status.code(), Some(exit::FAILURE.into()));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are: worker-0"));

    // The last one leaves a checkpoint.
    convoy(&["workers", "drain", &run, "worker-0"]);
    job.ends_with(exit::STOPPED);
    let rough = place.state("run");
    assert!(rough.0 > held);
    let (end, quiet) =
        (format!("train.max_steps={}", rough.0), format!("run.url={}", place.path("quiet")));
    let options = ["--workers", "1", "--set", &end, "--set", &quiet];
    place.launch(&options).ends_with(exit::OK);
    assert_eq!(place.state("quiet"), rough);
}

#[test]
fn a_run_with_a_drop_by_hand_stopped_and_gone_on_with_is_replayed_bit_for_bit() {
    let place = Place::new();
    let run = place.path("run");
    let mut job = place.launch(&[]);
    place.reaches(&mut job, 3);
    let status = json(&["status", &run, "--json"]);
    assert_eq!((&status["phase"], &status["workers_wanted"]), (&"training".into(), &2.into()));

    let drop = json(&["lr", "drop", &run, "--reason", "it stalls", "--json"]);
    assert_eq!((&drop["number"], &drop["stage"]), (&1.into(), &"effective".into()));
    let effective = drop["global_step"].as_u64().unwrap();
    assert!(effective > 3, "{drop}");
    place.reaches(&mut job, effective + 2);
    let status = json(&["status", &run, "--json"]);
    assert_eq!(status["last_step"]["learning_rate"].as_f64(), Some(0.001));
    assert_eq!(status["drops"][0]["stage"], "effective");

    let stopped = json(&["stop", &run, "--json"]);
    // The coordinator may leave before it is asked once more.
    let phase = stopped["phase"].as_str().unwrap();
    assert!(["stopped", "ended"].contains(&phase), "{stopped}");
    assert!(stopped["last_checkpoint"].is_string(), "{stopped}");
    job.ends_with(exit::STOPPED);
    let (step, _) = place.state("run");
    assert!(step > effective);
    let nobody = convoy(&["status", &run]);
    assert_eq!(nobody.status.code(), Some(exit::UNAVAILABLE.into()));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains("no job runs on the run at") && said.contains("hint: "), "{said}");

    let end = format!("train.max_steps={}", step + 4);
    place.launch(&["--set", &end]).ends_with(exit::OK);
    let again = format!("run.url={}", place.path("again"));
    place.launch(&["--set", &end, "--set", &again, "--replay", &run]).ends_with(exit::OK);
    let expected = place.state("run");
    assert_eq!(expected.0, step + 4);
    assert_eq!(place.state("again"), expected);
}
