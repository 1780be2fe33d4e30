//! From a URL that a user names to a run record and a checkpoint of it.

use super::catalogue::{BEST, Checkpoints, Skipped};
use super::error::CheckpointError;
use super::manifest::Manifest;
use crate::run_record::{self, RunRecord};
use crate::store::{Settings, Store};

/// A checkpoint together with the run that it belongs to.
#[derive(Debug)]
pub struct Located {
    /// Of the run, rooted at its URL.
    pub checkpoints: Checkpoints,
    /// `run.json`
    pub record: RunRecord,
    /// The manifest's path below the run's URL.
    pub path: String,
    /// The manifest.
    pub manifest: Manifest,
    /// Newer checkpoints that were passed over (none if one was named).
    pub skipped: Vec<Skipped>,
}

/// Finds the checkpoint that `url` means: a run's URL means the newest good one of its newest
/// lineage, `RUN_URL@best` the one with the fewest errors in that lineage, and
/// `RUN_URL/checkpoints/<lineage>/<step>` (with or without `/manifest.json`) that one; the parts of
/// these two are not verified here.
///
/// # Errors
/// [`CheckpointError`]
pub async fn locate(url: &str) -> Result<Located, CheckpointError> {
    locate_with(url, &Settings::from_env()).await
}

/// The same with given store settings.
///
/// # Errors
/// [`CheckpointError`]
pub async fn locate_with(url: &str, settings: &Settings) -> Result<Located, CheckpointError> {
    let (run, name) = split(url);
    let store = Store::open_with(run, settings)?;
    let record = run_record::read(&store).await?;
    let checkpoints = Checkpoints::new(store);
    let mut skipped = Vec::new();
    let (path, manifest) = match name {
        Some(name) => checkpoints.named(&name).await?,
        None => {
            let lineage = checkpoints.continued_lineage().await?;
            let search = checkpoints.newest_good(lineage).await?;
            skipped = search.skipped;
            match (search.found, skipped.first()) {
                (Some(found), _) => found,
                (None, None) => return Err(CheckpointError::NotFound { url: run.to_owned() }),
                (None, Some(newest)) => {
                    return Err(CheckpointError::NoneGood {
                        url: run.to_owned(),
                        skipped: skipped.len(),
                        reason: newest.reason.to_string(),
                    });
                }
            }
        }
    };
    Ok(Located { checkpoints, record, path, manifest, skipped })
}

/// The run's URL and `LINEAGE/STEP` or `best`, if the URL goes on to a checkpoint.
fn split(url: &str) -> (&str, Option<String>) {
    let trimmed = url.trim_end_matches('/');
    if let Some(run) = trimmed.strip_suffix(BEST).and_then(|it| it.strip_suffix('@')) {
        return (run, Some(BEST.to_owned()));
    }
    let short = trimmed.strip_suffix("/manifest.json").unwrap_or(trimmed);
    if let Some((run, rest)) = short.rsplit_once("/checkpoints/")
        && let Some((lineage, step)) = rest.split_once('/')
        && let (Ok(lineage), Ok(step)) = (lineage.parse::<u64>(), step.parse::<u64>())
    {
        return (run, Some(format!("{lineage}/{step}")));
    }
    (url, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_run_or_one_of_its_checkpoints() {
        let one = Some("2/120".to_owned());
        assert_eq!(split("s3://b/runs/a"), ("s3://b/runs/a", None));
        assert_eq!(split("s3://b/a/checkpoints/2/000000000120"), ("s3://b/a", one.clone()));
        assert_eq!(split("/a/checkpoints/2/000000000120/manifest.json"), ("/a", one.clone()));
        assert_eq!(split("/a/checkpoints/2/120/"), ("/a", one));
        assert_eq!(split("/data/checkpoints/mine"), ("/data/checkpoints/mine", None));
        assert_eq!(split("s3://b/runs/a@best"), ("s3://b/runs/a", Some("best".to_owned())));
        assert_eq!(split("runs/a@bester"), ("runs/a@bester", None));
    }
}
