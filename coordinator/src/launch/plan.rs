//! Who is started with which arguments: the machine's cores and GPUs shared out.
//!
//! Pure: what the machine has is an argument, what comes out are command lines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Which devices workers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Device {
    /// A GPU each where the machine has some and the worker was built for them, else the CPU.
    Auto,
    /// The CPU, its cores shared out.
    Cpu,
    /// A GPU each, in turn.
    Cuda,
}

/// What the machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Cores that this process may use.
    pub(super) cores: u32,
    /// Names of its GPUs as CUDA_VISIBLE_DEVICES takes them.
    pub(super) gpus: Vec<String>,
}

impl Machine {
    /// Looks at the machine. A CUDA_VISIBLE_DEVICES of the user's limits the GPUs.
    pub(crate) fn here() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |it| it.get());
        let gpus = match std::env::var("CUDA_VISIBLE_DEVICES") {
            Ok(list) => list
                .split(',')
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
                .collect(),
            Err(_) => (0..count_gpus()).map(|it| it.to_string()).collect(),
        };
        Self { cores: u32::try_from(cores).unwrap_or(u32::MAX), gpus }
    }
}

/// The driver's own list; containers that lack it have device nodes all the same.
fn count_gpus() -> usize {
    let count = |folder: &str, is_gpu: fn(&str) -> bool| {
        std::fs::read_dir(folder).map_or(0, |entries| {
            entries.flatten().filter(|it| it.file_name().to_str().is_some_and(is_gpu)).count()
        })
    };
    let listed = count("/proc/driver/nvidia/gpus", |_| true);
    let is_node = |name: &str| {
        name.strip_prefix("nvidia")
            .is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if listed > 0 { listed } else { count("/dev", is_node) }
}

/// One worker: its arguments and what is set in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerCommand {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// What decides one worker's part of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) device: Device,
    /// As the user wants it; shared out if not given.
    pub(crate) lanes: Option<u32>,
    pub(crate) threads_per_lane: u32,
    /// Which worker of `workers` it is.
    pub(crate) index: u32,
    pub(crate) workers: u32,
}

/// The arguments of `convoy-worker` for one worker.
pub(crate) fn worker(machine: &Machine, share: &Share, coordinator: &str) -> WorkerCommand {
    let index = share.index;
    let gpu = (!machine.gpus.is_empty()).then(|| index as usize % machine.gpus.len());
    let mut environment = Vec::new();
    let device = match (share.device, gpu) {
        // On a machine without a GPU the worker refuses it, and says so better than we could.
        (Device::Cuda, gpu) => format!("cuda:{}", gpu.unwrap_or(index as usize)),
        // Whether the worker can use a GPU at all is its own knowledge: it is shown one.
        (Device::Auto, Some(gpu)) => {
            environment.push(("CUDA_VISIBLE_DEVICES", machine.gpus[gpu].clone()));
            "auto".to_owned()
        }
        (Device::Auto, None) => "auto".to_owned(),
        (Device::Cpu, _) => "cpu".to_owned(),
    };
    let on_gpu = device.starts_with("cuda");
    let mut arguments = vec![
        "join".into(),
        "--coordinator".into(),
        coordinator.into(),
        "--name".into(),
        format!("worker-{index}").into(),
        "--device".into(),
        device.into(),
        "--log-format".into(),
        "json".into(),
    ];
    let cores_decide = || lanes(machine.cores, share.workers, share.threads_per_lane);
    let lanes = if on_gpu { share.lanes } else { Some(share.lanes.unwrap_or_else(cores_decide)) };
    if let Some(lanes) = lanes {
        arguments.push("--lanes".into());
        arguments.push(lanes.to_string().into());
    }
    WorkerCommand { arguments, environment }
}

/// Lanes of each worker: its share of the cores, in units of a lane's threads; at least one.
fn lanes(cores: u32, workers: u32, threads_per_lane: u32) -> u32 {
    (cores / workers.max(1) / threads_per_lane.max(1)).max(1)
}

/// What `convoy serve` is started with.
#[derive(Clone, Debug)]
pub(super) struct Serve<'a> {
    pub(super) config: &'a Path,
    pub(super) overrides: &'a [String],
    /// Given only where the config names no address of its own.
    pub(super) bind: Option<&'a str>,
    pub(super) address_file: &'a Path,
    pub(super) fresh: bool,
    pub(super) from: Option<&'a str>,
    pub(super) replay: Option<&'a str>,
    pub(super) unfenced: bool,
}

impl Serve<'_> {
    /// The arguments of `convoy`.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["serve".into(), self.config.into()];
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        for it in self.overrides {
            option("--set", it.into());
        }
        if let Some(bind) = self.bind {
            option("--bind", bind.into());
        }
        option("--address-file", self.address_file.into());
        option("--log-format", "json".into());
        if let Some(from) = self.from {
            option("--from", from.into());
        }
        if let Some(replay) = self.replay {
            option("--replay", replay.into());
        }
        let flags = [(self.fresh, "--fresh"), (self.unfenced, "--unfenced")];
        for (given, flag) in flags {
            if given {
                arguments.push(flag.into());
            }
        }
        arguments
    }
}

/// Whether the config file's text or an override names `cluster.bind`.
pub(super) fn names_bind(config: &str, overrides: &[String]) -> bool {
    let in_file = config
        .parse::<toml::Table>()
        .is_ok_and(|table| table.get("cluster").and_then(|it| it.get("bind")).is_some());
    in_file
        || overrides
            .iter()
            .any(|it| it.split('=').next().is_some_and(|key| key.trim() == "cluster.bind"))
}

/// `convoy-worker` beside the running program, unless the user names another.
///
/// # Errors
/// The path at which it was looked for.
pub(crate) fn worker_binary(given: Option<&Path>, convoy: &Path) -> Result<PathBuf, PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => convoy.with_file_name("convoy-worker"),
    };
    if path.is_file() { Ok(path) } else { Err(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: u32, gpus: &[&str]) -> Machine {
        Machine { cores, gpus: gpus.iter().map(|it| (*it).to_owned()).collect() }
    }

    fn share(device: Device, index: u32, workers: u32) -> Share {
        Share { device, lanes: None, threads_per_lane: 1, index, workers }
    }

    fn line(it: &WorkerCommand) -> String {
        it.arguments.iter().map(|it| it.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cores_are_shared_out_and_nobody_goes_without() {
        assert_eq!(
            [lanes(16, 2, 1), lanes(16, 3, 1), lanes(16, 2, 4), lanes(2, 8, 1)],
            [8, 5, 2, 1]
        );
    }

    #[test]
    fn a_cpu_worker_is_told_its_name_device_and_lanes() {
        let it = worker(&machine(8, &[]), &share(Device::Auto, 1, 2), "http://127.0.0.1:7");
        assert_eq!(
            line(&it),
            "join --coordinator http://127.0.0.1:7 --name worker-1 --device auto --log-format json --lanes 4"
        );
        assert_eq!(it.environment, []);
    }

    #[test]
    fn workers_take_the_gpus_in_turn() {
        let two = machine(8, &["0", "3"]);
        let devices = |device| {
            (0..3).map(|it| worker(&two, &share(device, it, 3), "http://a:1")).collect::<Vec<_>>()
        };
        let named: Vec<_> = devices(Device::Cuda).iter().map(line).collect();
        assert!(named[1].contains("--device cuda:1") && named[2].contains("--device cuda:0"));
        let shown: Vec<_> =
            devices(Device::Auto).into_iter().map(|it| it.environment[0].1.clone()).collect();
        assert_eq!(shown, ["0", "3", "0"]);
    }

    #[test]
    fn an_address_in_the_config_or_on_the_command_line_is_left_alone() {
        assert!(names_bind("[cluster]\nbind = \"127.0.0.1:9\"", &[]));
        assert!(names_bind("", &["cluster.bind=127.0.0.1:9".to_owned()]));
        assert!(!names_bind("[cluster]\nworkers = 2", &["cluster.workers=3".to_owned()]));
    }

    #[test]
    fn a_missing_worker_is_named_with_the_place_where_it_was_looked_for() {
        let missing = worker_binary(None, Path::new("/nowhere/convoy"));
        assert_eq!(missing, Err(PathBuf::from("/nowhere/convoy-worker")));
    }
}
