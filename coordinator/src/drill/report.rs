//! How a drill looks: a table that grows with each fault, the verdict in a line or two, and all of it as
//! one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::plan::Kind;
use super::verdict::Verdict;
use super::vitals::Life;

/// What came of one fault.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// From 1.
    pub(super) number: usize,
    pub(super) kind: Kind,
    /// How, where there are several ways.
    pub(super) way: Option<&'static str>,
    /// Whom it was done to.
    pub(super) target: String,
    /// How long it lasted.
    pub(super) hold: Duration,
    /// The last step that was finished before it.
    pub(super) step: u64,
    /// Until the coordinator's first word of it; none where nothing was noticed.
    pub(super) detection: Option<Duration>,
    /// Until the first step that was finished after the fault was noticed.
    pub(super) next_step: Option<Duration>,
    /// The longest time without a finished step from the fault until the recovery: with it comes that
    /// of a worker's return.
    pub(super) pause: Duration,
    /// Until everybody trained again and had finished a step; none if the job did not recover.
    pub(super) recovery: Option<Duration>,
    /// Finished steps that had to be made again.
    pub(super) redone: u64,
    /// The job afterwards, in words.
    pub(super) state: String,
    /// Processes that ended although nobody touched them.
    pub(super) others: Vec<String>,
}

const HEAD: &str = "   #  FAULT                             TARGET                 STEP  DETECTED  NEXT STEP     PAUSE  RECOVERED  REDONE  AFTERWARDS";

/// The table's head line.
pub(super) fn head() -> &'static str {
    HEAD
}

/// One line of the table, and one more for each process that ended untouched.
pub(super) fn line(row: &Row) -> String {
    let mut fault = row.kind.as_str().to_owned();
    if let Some(way) = row.way {
        let _ = write!(fault, " {way}");
    }
    if row.hold > Duration::ZERO {
        let _ = write!(fault, " {:.1} s", row.hold.as_secs_f64());
    }
    let seconds = |it: Option<Duration>| match it {
        Some(it) => format!("{:.3} s", it.as_secs_f64()),
        None => "-".to_owned(),
    };
    let mut text = format!(
        "{:>4}  {fault:<32}  {:<20} {:>6}  {:>8}  {:>9}  {:>8}  {:>9}  {:>6}  {}",
        row.number,
        row.target,
        row.step,
        seconds(row.detection),
        seconds(row.next_step),
        seconds(Some(row.pause)),
        seconds(row.recovery),
        row.redone,
        row.state,
    );
    for other in &row.others {
        let _ = write!(text, "\n      untouched: {other}");
    }
    text
}

/// Medians and maxima of one kind.
#[derive(Clone, Debug, Default)]
struct Summary {
    count: usize,
    detection: Vec<f64>,
    next_step: Vec<f64>,
    pause: Vec<f64>,
    recovery: Vec<f64>,
    redone: u64,
}

fn summaries(rows: &[Row]) -> BTreeMap<Kind, Summary> {
    let mut all: BTreeMap<Kind, Summary> = BTreeMap::new();
    for row in rows {
        let it = all.entry(row.kind).or_default();
        it.count += 1;
        it.detection.extend(row.detection.map(|it| it.as_secs_f64()));
        it.next_step.extend(row.next_step.map(|it| it.as_secs_f64()));
        it.pause.push(row.pause.as_secs_f64());
        it.recovery.extend(row.recovery.map(|it| it.as_secs_f64()));
        it.redone += row.redone;
    }
    for it in all.values_mut() {
        for values in [&mut it.detection, &mut it.next_step, &mut it.pause, &mut it.recovery] {
            values.sort_by(f64::total_cmp);
        }
    }
    all
}

/// The middle one, the lower of two; none of none.
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// A table of all kinds: how many, and medians with maxima.
pub(super) fn by_kind(rows: &[Row]) -> String {
    let mut text = String::from(
        "KIND                COUNT  DETECTED median/max    NEXT STEP median/max   PAUSE median/max       RECOVERED median/max   REDONE\n",
    );
    let pair = |sorted: &[f64]| match (median(sorted), sorted.last()) {
        (Some(median), Some(most)) => format!("{median:.3} / {most:.3} s"),
        _ => "-".to_owned(),
    };
    for (kind, it) in summaries(rows) {
        let _ = writeln!(
            text,
            "{:<18}  {:>5}  {:<21}  {:<21}  {:<21}  {:<21}  {:>6}",
            kind.as_str(),
            it.count,
            pair(&it.detection),
            pair(&it.next_step),
            pair(&it.pause),
            pair(&it.recovery),
            it.redone
        );
    }
    text
}

/// The verdict for people.
pub(super) fn verdict(it: &Verdict) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if let Some(why) = &it.broken {
        say(format!("broken     {why}"));
    }
    match (&it.digest, &it.reference) {
        (Some(digest), Some(reference)) if digest == reference => {
            say(format!("state      {digest} at step {}, as without faults", it.steps));
        }
        (Some(digest), Some(reference)) => {
            say(format!("state      {digest} at step {}", it.steps));
            say(format!("reference  {reference}: the states differ"));
        }
        (digest, _) => say(format!(
            "state      {}, compared with nothing",
            digest.as_deref().unwrap_or("not known")
        )),
    }
    // A job that did not come to its end is not looked into.
    let account = &it.samples;
    let looked_into = it.digest.is_some();
    say(match looked_into {
        false => "samples    not compared with the order".to_owned(),
        true => format!(
            "samples    {} lost, {} doubled in {} steps{}",
            account.lost,
            account.doubled,
            it.steps,
            match (account.first, account.untold) {
                (Some(step), _) => format!(", the first in step {step}"),
                (None, 0) => String::new(),
                (None, untold) => format!(", {untold} of which nobody told"),
            }
        ),
    });
    for (who, Life { first, last, most, looks }) in &it.vitals {
        let megabytes = |bytes: u64| bytes / 1_000_000;
        say(format!(
            "memory     {}: {} MB at first, {} at last, {} at most; {} open files at first, {} at \
             last; in {looks} looks",
            who.name(),
            megabytes(first.memory),
            megabytes(last.memory),
            megabytes(most.memory),
            first.files,
            last.files,
        ));
    }
    for leak in &it.leaks {
        say(format!("leak       {leak}"));
    }
    if it.swept > 0 {
        say(format!(
            "swept      {} parts of checkpoints that were not finished, as the next coordinator does",
            it.swept
        ));
    }
    if !looked_into {
        say("leaks      not looked for".to_owned());
    } else if it.leaks.is_empty() {
        say("leaks      none: processes, temporary files, store objects".to_owned());
    }
    if let Some(folder) = &it.folder {
        say(format!("kept       {folder}"));
    }
    let word = if it.is_good() { "PASSED" } else { "FAILED" };
    let why = it.reasons().join("; ");
    let why = if why.is_empty() { why } else { format!(": {why}") };
    say(format!(
        "{word}     {} of {} faults, seed {}, {} workers{why}",
        it.rows.len(),
        it.wanted,
        it.seed,
        it.workers
    ));
    text
}

/// All of it for programs.
pub(super) fn json(it: &Verdict) -> Value {
    let seconds = |it: Option<Duration>| it.map(|it| rounded(it.as_secs_f64()));
    let faults: Vec<Value> = it
        .rows
        .iter()
        .map(|row| {
            json!({
                "number": row.number,
                "kind": row.kind.as_str(),
                "way": row.way,
                "target": row.target,
                "hold_seconds": rounded(row.hold.as_secs_f64()),
                "step": row.step,
                "detection_seconds": seconds(row.detection),
                "next_step_seconds": seconds(row.next_step),
                "pause_seconds": rounded(row.pause.as_secs_f64()),
                "recovery_seconds": seconds(row.recovery),
                "steps_redone": row.redone,
                "state_after": row.state,
                "ended_untouched": row.others,
            })
        })
        .collect();
    let kinds: serde_json::Map<String, Value> = summaries(&it.rows)
        .into_iter()
        .map(|(kind, it)| {
            let both = |sorted: &[f64]| {
                json!({
                    "median": median(sorted).map(rounded),
                    "max": sorted.last().copied().map(rounded),
                })
            };
            let value = json!({
                "count": it.count,
                "detection_seconds": both(&it.detection),
                "next_step_seconds": both(&it.next_step),
                "pause_seconds": both(&it.pause),
                "recovery_seconds": both(&it.recovery),
                "steps_redone": it.redone,
            });
            (kind.as_str().to_owned(), value)
        })
        .collect();
    let memory: Vec<Value> = it
        .vitals
        .iter()
        .map(|(who, life)| {
            json!({
                "who": who.name(),
                "bytes_first": life.first.memory,
                "bytes_last": life.last.memory,
                "bytes_most": life.most.memory,
                "files_first": life.first.files,
                "files_last": life.last.files,
                "looks": life.looks,
            })
        })
        .collect();
    let looked_into = it.digest.is_some();
    json!({
        "passed": it.is_good(),
        "reasons": it.reasons(),
        "hash_equal": it.hash_equal(),
        "state_digest": it.digest,
        "reference_digest": it.reference,
        "steps": it.steps,
        "samples_lost": looked_into.then_some(it.samples.lost),
        "samples_doubled": looked_into.then_some(it.samples.doubled),
        "steps_untold": looked_into.then_some(it.samples.untold),
        "faults": faults,
        "faults_wanted": it.wanted,
        "kinds": kinds,
        "seed": it.seed,
        "workers": it.workers,
        "network": it.cutter,
        "leaks": looked_into.then_some(&it.leaks),
        "parts_swept": it.swept,
        "memory": memory,
        "broken": it.broken,
        "folder": it.folder,
    })
}

/// Milliseconds are enough.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, pause: u64) -> Row {
        Row {
            number: 3,
            kind,
            way: Some("refuse"),
            target: "worker-1".to_owned(),
            hold: Duration::from_millis(1250),
            step: 17,
            detection: Some(Duration::from_millis(4)),
            next_step: Some(Duration::from_millis(80)),
            pause: Duration::from_millis(pause),
            recovery: None,
            redone: 1,
            state: "training, 3 of 3".to_owned(),
            others: vec!["worker-0 ended with exit code 69".to_owned()],
        }
    }

    #[test]
    fn a_row_says_what_happened_to_whom_and_what_came_of_it() {
        let text = line(&row(Kind::Cut, 850));
        for part in
            ["cut refuse 1.2 s", "worker-1", "17", "0.004 s", "0.850 s", "training", "untouched"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn each_kind_has_its_median_and_its_maximum() {
        let rows = [700, 100, 400].map(|it| row(Kind::Kill, it));
        let text = by_kind(&rows);
        assert!(text.contains("0.400 / 0.700 s"), "{text}");
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0]), Some(2.0));
    }
}
