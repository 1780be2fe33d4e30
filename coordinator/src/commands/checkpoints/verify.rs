//! `convoy checkpoints verify`

use convoy_common::checkpoint::{CheckpointError, locate};
use convoy_common::failure::Explain as _;
use serde_json::json;

use super::{Told, open};

/// A checkpoint and, if it cannot be used, why.
struct Verdict {
    path: String,
    problem: Option<String>,
}

/// The exit code is that of the last problem.
pub(super) async fn verify(url: &str, as_json: bool) -> Told {
    let mut verdicts = Vec::new();
    let mut code = 0;
    if names_one(url) {
        let found = locate(url).await?;
        found.checkpoints.verify(&found.manifest).await?;
        verdicts.push(Verdict { path: found.path, problem: None });
    } else {
        let (checkpoints, _) = open(url).await?;
        let listing = checkpoints.list().await?;
        for it in listing.checkpoints {
            let outcome = match checkpoints.read(&it.path).await {
                Ok(manifest) => checkpoints.verify(&manifest).await,
                Err(error) => Err(error),
            };
            let problem = match outcome {
                Ok(()) => None,
                Err(CheckpointError::Store(error)) => return Err(error.into()),
                // Its job has pruned it meanwhile.
                Err(_) if !checkpoints.store().exists(&it.path).await? => continue,
                Err(error) => {
                    code = error.exit_code();
                    Some(error.to_string())
                }
            };
            verdicts.push(Verdict { path: it.path, problem });
        }
        for it in listing.skipped {
            code = it.reason.exit_code();
            verdicts.push(Verdict { path: it.path, problem: Some(it.reason.to_string()) });
        }
    }
    let text = if as_json { told_as_json(&verdicts) } else { told(&verdicts) };
    Ok((text, code))
}

fn names_one(url: &str) -> bool {
    url.trim_end_matches('/').rsplit('/').nth(2) == Some("checkpoints")
        || url.ends_with("/manifest.json")
}

fn told(verdicts: &[Verdict]) -> String {
    let line = |it: &Verdict| match &it.problem {
        None => format!("good      {}\n", it.path),
        Some(problem) => format!("unusable  {}: {problem}\n", it.path),
    };
    verdicts.iter().map(line).collect()
}

fn told_as_json(verdicts: &[Verdict]) -> String {
    let all: Vec<_> = verdicts
        .iter()
        .map(|it| json!({ "path": it.path, "good": it.problem.is_none(), "problem": it.problem }))
        .collect();
    format!("{}\n", json!({ "checkpoints": all }))
}
