//! Does to a running job what the plan says, and notes what came of it.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use super::drive::{Action, Drive};
use super::error::DrillError;
use super::network::Between;
use super::plan::{Fault, Kind, Round, Way};
use super::process::Who;
use super::report::Row;
use super::watch::{Sign, between};

/// Between two tries to hit a process that does not run just now.
const AGAIN: Duration = Duration::from_millis(20);
/// Shares of a step's time are of this at most: an evaluation is no reason to wait for minutes.
const LONGEST_STEP: Duration = Duration::from_secs(10);

/// A fault that was inflicted.
#[derive(Debug)]
struct Inflicted {
    number: usize,
    fault: Fault,
    at: SystemTime,
    step: u64,
}

/// Lets one round happen to the job, and waits until it has recovered. `done` faults were before; each
/// row goes to `tell` when the round is over.
///
/// Ends early, with fewer rows, when the job comes to its own end.
///
/// # Errors
/// When the job does not recover in time, or breaks, or the drill is interrupted.
pub(super) async fn round(
    drive: &mut Drive<'_>,
    round: &Round,
    done: usize,
    patience: Duration,
    tell: &mut dyn FnMut(Row),
) -> Result<(), DrillError> {
    drive.doing = format!("before fault {}", done + 1);
    let begin = SystemTime::now();
    let steps = round.steps as usize;
    let moved = |it: &Drive<'_>| it.journal.finished_since(begin) >= steps || it.is_over();
    drive.until("it makes steps", patience, moved).await?;
    let step_time = drive.journal.step_time().min(LONGEST_STEP);
    drive.pass(step_time.mul_f64(round.share)).await?;
    if drive.is_over() {
        return Ok(());
    }

    let mut inflicted: Vec<Inflicted> = Vec::new();
    for (number, fault) in round.faults.iter().enumerate() {
        drive.later(fault.after, Action::Inflict(done + number, fault.clone()));
    }
    let collateral = drive.collateral.len();
    loop {
        drive.doing = doing(&inflicted, done);
        let rests = |it: &Drive<'_>| !it.due.is_empty() || it.is_whole() || it.is_over();
        let limit = patience + round.faults.iter().map(|it| it.hold).sum::<Duration>();
        let waited = drive.until("everybody trains again", limit, rests).await;
        if let Err(error) = waited {
            // What was inflicted belongs into the report of a job that does not survive it.
            let until = SystemTime::now();
            inflicted.iter().for_each(|it| tell(row(drive, it, until, None)));
            return Err(error);
        }
        if drive.is_over() {
            break;
        }
        let due = std::mem::take(&mut drive.due);
        if due.is_empty() {
            break;
        }
        for (number, fault) in due {
            match inflict(drive, &fault).await? {
                true => {
                    let (at, step) = (SystemTime::now(), drive.journal.newest());
                    inflicted.push(Inflicted { number, fault, at, step });
                }
                false => drive.later(AGAIN, Action::Inflict(number, fault)),
            }
        }
    }
    let until = SystemTime::now();
    drive.look_at_vitals();
    let others: Vec<String> = drive.collateral[collateral..]
        .iter()
        .map(|it| format!("{} ended with {}", it.who.name(), it.how))
        .collect();
    for it in &inflicted {
        let mut row = row(drive, it, until, Some(until));
        row.others.clone_from(&others);
        tell(row);
    }
    Ok(())
}

fn doing(inflicted: &[Inflicted], done: usize) -> String {
    if inflicted.is_empty() {
        return format!("before fault {}", done + 1);
    }
    let names: Vec<String> = inflicted
        .iter()
        .map(|it| format!("fault {} ({} {})", it.number + 1, it.fault.kind, target(&it.fault)))
        .collect();
    format!("after {}", names.join(" and "))
}

/// Does it; false if its victim does not run just now.
async fn inflict(drive: &mut Drive<'_>, fault: &Fault) -> Result<bool, DrillError> {
    let worker = fault.worker.unwrap_or_default();
    let victim = Who::Worker(worker);
    if fault.worker.is_some() && drive.cluster.life(victim).is_none()
        || fault.kind.has_coordinator() && drive.cluster.life(Who::Coordinator).is_none()
    {
        return Ok(false);
    }
    match fault.kind {
        Kind::Kill => {
            drive.disturbed(true);
            drive.doom(victim, fault.restart);
            drive.cluster.send(victim, Signal::KILL);
        }
        Kind::Drain => {
            drive.disturbed(true);
            drive.doom(victim, fault.restart);
            drive.cluster.send(victim, Signal::TERM);
        }
        Kind::Stop | Kind::Blink => {
            drive.disturbed(false);
            if fault.kind == Kind::Stop {
                // It finds itself out when it goes on, and ends.
                drive.doom(victim, fault.restart);
            }
            let life = drive.cluster.life(victim).unwrap_or_default();
            drive.cluster.send(victim, Signal::STOP);
            drive.later(fault.hold, Action::Wake(victim, life));
        }
        Kind::Cut | Kind::CutCoordinator | Kind::Store => {
            drive.disturbed(false);
            if fault.worker.is_some() {
                // One of the two ends of a way that stays cut may be out in the end.
                drive.doom(victim, fault.restart);
            }
            let between = match fault.kind {
                Kind::Cut => Between::Ring(worker),
                Kind::CutCoordinator => Between::Line(worker),
                _ => Between::Store,
            };
            let way = fault.way.unwrap_or(Way::Reset);
            let least = drive.cluster.network().cut(between, way).await?;
            drive.later(fault.hold.max(least), Action::Mend(between));
        }
        Kind::Coordinator | Kind::CoordinatorAndWorker => {
            // The next coordinator may well go on with the generation that it finds.
            drive.disturbed(fault.kind == Kind::CoordinatorAndWorker);
            if fault.kind == Kind::CoordinatorAndWorker {
                drive.doom(victim, fault.restart);
                drive.cluster.send(victim, Signal::KILL);
            }
            drive.doom(Who::Coordinator, fault.restart);
            drive.cluster.send(Who::Coordinator, Signal::KILL);
        }
    }
    Ok(true)
}

/// Whom it was done to, as the job calls it.
fn target(fault: &Fault) -> String {
    match (fault.kind, fault.worker) {
        (Kind::Store, _) => "store".to_owned(),
        (Kind::Coordinator, _) => Who::Coordinator.name(),
        (Kind::CoordinatorAndWorker, Some(worker)) => {
            format!("{}+{}", Who::Coordinator.name(), Who::Worker(worker).name())
        }
        (_, Some(worker)) => Who::Worker(worker).name(),
        (_, None) => String::new(),
    }
}

fn row(drive: &Drive<'_>, it: &Inflicted, until: SystemTime, recovered: Option<SystemTime>) -> Row {
    let Inflicted { number, fault, at, step } = it;
    let journal = &drive.journal;
    let name = fault.worker.map(|it| Who::Worker(it).name());
    let detection = match fault.kind {
        // It does not harm the training; what shows it is a checkpoint that does not come to be.
        Kind::Store => journal.first(*at, until, |it| *it == Sign::Abandoned),
        // Nobody but the next coordinator tells of it.
        Kind::Coordinator | Kind::CoordinatorAndWorker => {
            journal.first(*at, until, |it| *it == Sign::Listening)
        }
        // It should harm nobody; a generation that breaks is another fault's doing.
        Kind::Blink => journal.first(*at, until, |sign| match sign {
            Sign::Lost(lost) => Some(lost) == name.as_ref(),
            _ => false,
        }),
        _ => journal.detection(*at, until, name.as_deref()),
    };
    // A step that was all but finished already says nothing of the fault.
    let noticed = detection.unwrap_or_default().max(match fault.kind {
        Kind::Blink => fault.hold,
        _ => Duration::ZERO,
    });
    Row {
        number: number + 1,
        kind: fault.kind,
        way: fault.way.map(Way::as_str),
        target: target(fault),
        hold: fault.hold,
        step: *step,
        detection,
        next_step: journal.next_step(*at, *at + noticed, until),
        pause: journal.pause(*at, until),
        recovery: recovered.map(|it| between(*at, it)),
        redone: journal.redone(*at, until),
        state: drive.state(),
        others: Vec::new(),
    }
}
