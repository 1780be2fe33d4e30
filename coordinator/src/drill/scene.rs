//! Where a drill takes place: its folder, its stores, the kinds of faults that are possible there, and
//! what it says meanwhile.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use convoy_common::checkpoint::CheckpointError;
use convoy_common::config::{Reduction, RunConfig};
use convoy_common::dataset::{Dataset, Split};
use convoy_common::failure::Failure;
use convoy_common::nonce;
use convoy_common::run_record;
use convoy_common::sampling::Sampler;
use convoy_common::store::Store;

use super::Drill;
use super::cluster::Setup;
use super::error::DrillError;
use super::network::{Cuts, Endpoint};
use super::plan::Kind;
use crate::launch::plan::worker_binary;

/// A place for one drill.
pub(super) struct Scene {
    /// Known to every process of the drill.
    pub(super) mark: String,
    /// Of the plan.
    pub(super) kinds: Vec<Kind>,
    /// The ways that these cut.
    pub(super) cuts: Cuts,
    /// Of the store that the job uses.
    pub(super) endpoint: Endpoint,
    /// Of the data set under the config.
    pub(super) steps_per_epoch: u32,
    folder: PathBuf,
    /// The user wants the folder; it is not removed.
    wanted: bool,
    /// Where the runs are: the folder, or below the config's own run.
    base: String,
    /// Kinds that were left out, and why.
    left_out: Option<String>,
    programs: (PathBuf, PathBuf),
    dataset: Dataset,
    screen: Screen,
}

/// What people see of a running drill: on stdout, or on stderr if that is for JSON.
#[derive(Debug)]
pub(super) struct Screen {
    json: bool,
}

impl Screen {
    /// Prints a text and ends its line.
    pub(super) fn say(&self, text: &str) {
        // A reader that closed the pipe has seen enough.
        if self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        } else {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// Prints to stdout, whoever reads it.
    pub(super) fn print(text: &str) {
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

impl Scene {
    /// Checks that the config can be drilled, and makes the folder.
    ///
    /// # Errors
    /// When it promises no equal bits, a wanted kind of fault is not possible, a program is missing,
    /// or folder, store or data set cannot be used.
    pub(super) async fn set(drill: &Drill) -> Result<Self, Failure> {
        promises(&drill.run)?;
        let this = std::env::current_exe().map_err(|source| DrillError::System {
            what: "tell where this program lies",
            source,
        })?;
        let worker = worker_binary(drill.worker.as_deref(), &this)
            .map_err(|path| DrillError::NoWorker { path })?;
        let store = Store::open(&drill.run.run.url)?;
        let data = Store::open(&drill.run.data.url)?;
        let is_folder = |it: &Store| it.url().starts_with("file:");
        let is_local = is_folder(&store);
        let endpoint = match is_local && is_folder(&data) {
            true => Endpoint::None,
            false => Endpoint::here().await,
        };
        let (kinds, left_out) = kinds(drill, is_local, endpoint)?;
        let has = |kind: Kind| kinds.contains(&kind);
        let cuts =
            Cuts { ring: has(Kind::Cut), line: has(Kind::CutCoordinator), store: has(Kind::Store) };
        let dataset = Dataset::open(data).await?;
        let images = dataset.len(Split::Train);
        let steps_per_epoch = images.div_ceil(u64::from(drill.run.train.batch.max(1)));

        let mark = format!("{}-{}", drill.seed, nonce::unique());
        let folder = match &drill.keep {
            Some(folder) => folder.clone(),
            None => std::env::temp_dir().join(format!("convoy-drill-{mark}")),
        };
        make(&folder)?;
        // Processes get it as it is seen from anywhere.
        let folder = std::fs::canonicalize(&folder).map_err(|source| DrillError::File {
            what: "find",
            path: folder,
            source,
        })?;
        let base = match is_local {
            true => folder.display().to_string(),
            false => format!("{}/drill-{mark}", store.url()),
        };
        Ok(Self {
            mark,
            kinds,
            cuts,
            endpoint,
            steps_per_epoch: u32::try_from(steps_per_epoch).unwrap_or(u32::MAX),
            folder,
            wanted: drill.keep.is_some(),
            base,
            left_out,
            programs: (this, worker),
            dataset,
            screen: Screen { json: drill.json },
        })
    }

    /// Where the drill speaks.
    pub(super) fn screen(&self) -> &Screen {
        &self.screen
    }

    /// What is about to happen.
    pub(super) fn introduction(
        &self,
        drill: &Drill,
        cutter: Option<&str>,
        no_namespaces: Option<&str>,
    ) -> String {
        let kinds: Vec<&str> = self.kinds.iter().map(|it| it.as_str()).collect();
        let mut notes = self.left_out.as_ref().map(|it| format!("\n{it}")).unwrap_or_default();
        match (cutter, no_namespaces) {
            (Some(cutter), Some(reason)) => {
                let _ = write!(notes, "\nways are cut by {cutter}; no namespaces: {reason}");
            }
            (Some(cutter), None) => {
                let _ = write!(notes, "\nways are cut by {cutter}");
            }
            (None, _) => {}
        }
        format!(
            "{} faults of {} workers, seed {}: {}{notes}\nlogs are in {}\n",
            drill.faults,
            drill.workers,
            drill.seed,
            kinds.join(", "),
            self.folder.display()
        )
    }

    /// How the processes of the run called `name` are started.
    pub(super) fn setup(&self, drill: &Drill, name: &str, workers: u32) -> Setup {
        let mut overrides = drill.overrides.clone();
        overrides.push(format!("run.url={}", self.url(name)));
        overrides.push(format!("cluster.workers={workers}"));
        Setup {
            coordinator: self.programs.0.clone(),
            worker: self.programs.1.clone(),
            config: drill.config.clone(),
            overrides,
            workers: workers as usize,
            device: drill.device,
            lanes: drill.lanes,
            threads_per_lane: drill.run.numerics.threads_per_lane,
            logs: self.folder.join("logs").join(name),
            temporary: self.temporary(),
            mark: self.mark.clone(),
        }
    }

    /// Where the processes put temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// The store of the run called `name`.
    pub(super) fn store(&self, name: &str) -> Result<Store, Failure> {
        Ok(Store::open(&self.url(name))?)
    }

    /// The order of the samples, as the run at `store` recorded it.
    pub(super) async fn sampler(&self, store: &Store) -> Result<Sampler, Failure> {
        let record = run_record::read(store).await.map_err(CheckpointError::from)?;
        let images = self.dataset.len(Split::Train);
        Ok(Sampler::of(&record.config, images, &self.dataset.shard_starts(Split::Train)))
    }

    /// Removes the stores and the folder of a drill that is over, unless they are wanted, or it did not
    /// pass and they are needed to see why.
    pub(super) async fn clear(&self, passed: bool) {
        if self.kept(passed).is_some() {
            return;
        }
        // What cannot be removed is no reason to fail; it lies where temporary files do.
        for name in ["rehearsal", "reference"] {
            let Ok(store) = Store::open(&self.url(name)) else { continue };
            for object in store.list("").await.unwrap_or_default() {
                let _ = store.delete(&object.path).await;
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// Where everything is, if it stays.
    pub(super) fn kept(&self, passed: bool) -> Option<String> {
        let (folder, base) = (self.folder.display().to_string(), &self.base);
        let all = if *base == folder { folder } else { format!("{folder}; its runs in {base}") };
        (self.wanted || !passed).then_some(all)
    }
}

fn promises(run: &RunConfig) -> Result<(), DrillError> {
    if run.numerics.reduction == Reduction::Fast {
        return Err(DrillError::NoPromise { field: "numerics.reduction", value: "\"fast\"" });
    }
    if run.cluster.allow_mixed_numerics {
        return Err(DrillError::NoPromise { field: "cluster.allow_mixed_numerics", value: "true" });
    }
    Ok(())
}

/// Those that are wanted, or all that are possible and what was left out.
fn kinds(
    drill: &Drill,
    is_local: bool,
    endpoint: Endpoint,
) -> Result<(Vec<Kind>, Option<String>), DrillError> {
    let hindrance = match (is_local, endpoint) {
        (true, _) => Some("the run's store is a folder, before which there is no proxy"),
        (false, Endpoint::Plain(_)) => None,
        (false, _) => Some("AWS_ENDPOINT_URL is not a plain http:// address that answers"),
    };
    if let Some(mut kinds) = drill.kinds.clone() {
        kinds.sort_unstable();
        kinds.dedup();
        return match hindrance.filter(|_| kinds.contains(&Kind::Store)) {
            Some(reason) => Err(DrillError::Impossible { kind: "store", reason }),
            None => Ok((kinds, None)),
        };
    }
    let possible = |kind: &Kind| *kind != Kind::Store || hindrance.is_none();
    let kinds = Kind::ALL.into_iter().filter(possible).collect();
    let left_out = hindrance.map(|reason| format!("no faults of the store: {reason}"));
    Ok((kinds, left_out))
}

/// Makes the folder, which must be empty if it is there.
fn make(folder: &Path) -> Result<(), DrillError> {
    let failed =
        |source| DrillError::File { what: "make the folder", path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut entries = std::fs::read_dir(folder).map_err(failed)?;
    if entries.next().is_some() {
        return Err(DrillError::NotEmpty { path: folder.to_owned() });
    }
    Ok(())
}
