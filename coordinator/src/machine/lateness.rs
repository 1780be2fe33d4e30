//! Whom the others wait for: named while they wait.
//!
//! ```text
//!  a  data compute [ring ..............................]   waits
//!  b  data [compute ...................................]   stuck: behind all others, outside of the ring
//!  c  data compute [ring ..............................]   waits
//! ```
//!
//! All ranks' steps take equally long, because all wait for the slowest; so it is told by who arrives at
//! the ring last. Heartbeats tell where each is and since when. One that is behind all others, while they
//! wait in the ring, is stuck. If all are in the ring, a link is stuck that has taken chunks of which
//! none arrive. One that holds nobody up for long, but does so in every step, is slow: its time from the end
//! of the last collective to its own part of the next exceeds twice what the others would take
//! for its microbatches.
//!
//! Times are durations on each worker's own clock. This is a pure function of what heartbeats told; what is
//! done about it is decided elsewhere.

use std::time::Duration;

use convoy_common::config::HEARTBEAT_INTERVAL;
use convoy_common::ids::Position;

use super::event::ConnectionId;
use super::stragglers::Straggler;

/// A slow worker takes so many times what the others would, and so much longer in each step.
const SLOW: (f64, f64) = (2.0, 0.1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) microbatches: f64,
    pub(super) between: f64,
    pub(super) data: f64,
    pub(super) compute: f64,
}

/// What is known of one rank.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) connection: ConnectionId,
    pub(super) name: String,
    pub(super) position: Position,
    pub(super) phase: String,
    pub(super) in_phase: Duration,
    pub(super) silence: Duration,
    pub(super) upload: Option<Duration>,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Since a chunk came.
    pub(super) still: Duration,
    pub(super) pace: Option<Pace>,
}

impl Seen {
    /// How far it has come: who has less is waited for. What is due between two steps comes before the step.
    fn progress(&self) -> (Position, u8) {
        let stage = match self.phase.as_str() {
            "checkpoint" | "evaluate" => 0,
            "data" => 1,
            "compute" => 2,
            "ring" => 3,
            "update" => 4,
            _ => 0,
        };
        (self.position, stage)
    }

    fn waits(&self) -> bool {
        self.phase == "ring"
    }
}

/// From when on what is worth a word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For others to be waited for.
    pub(super) wait: Duration,
    /// In an evaluation that holds nobody up.
    pub(super) evaluation: Duration,
    pub(super) upload: Duration,
}

/// One who is named.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) connection: ConnectionId,
    pub(super) straggler: Straggler,
    /// How long others have waited for it, if they wait just now.
    pub(super) kept_waiting: Option<Duration>,
    /// It is slow in every step, and not stuck in one.
    pub(super) slow: bool,
}

impl Found {
    fn new(who: &Seen, phase: &str, time: Duration, account: String) -> Self {
        let (name, phase) = (who.name.clone(), phase.to_owned());
        let straggler = Straggler { name, phase, time, account };
        Self { connection: who.connection, straggler, kept_waiting: None, slow: false }
    }
}

/// Those who are behind or cut off, those who are slow in each step, and those whose upload takes long.
pub(super) fn judge(all: &[Seen], patience: Patience) -> Vec<Found> {
    let mut found = stuck(all, patience);
    if found.is_empty() {
        found = slow(all);
    }
    for who in all {
        if let Some(time) = who.upload.filter(|it| *it >= patience.upload) {
            let (name, seconds) = (&who.name, time.as_secs_f64());
            let account =
                format!("worker {name} uploads its part of a checkpoint for {seconds:.1} s");
            found.push(Found::new(who, "upload", time, account));
        }
    }
    found
}

fn stuck(all: &[Seen], patience: Patience) -> Vec<Found> {
    let silent = |it: &&Seen| it.silence >= 2 * HEARTBEAT_INTERVAL;
    let found: Vec<Found> = all.iter().filter(silent).map(mute).collect();
    if !found.is_empty() {
        return found;
    }
    let Some(last) = all.iter().map(Seen::progress).min() else { return Vec::new() };
    // A rank in the ring waits for those who have not come as far.
    let waiting: Vec<&Seen> = all.iter().filter(|it| it.waits() && it.progress() > last).collect();
    let waited = waiting.iter().map(|it| it.in_phase).max();
    let behind: Vec<&Seen> = all.iter().filter(|it| it.progress() == last).collect();
    let all_wait = behind.len() == all.len() && behind.iter().all(|it| it.waits());
    if all_wait {
        return cut_links(all, patience.wait);
    }
    let late = |it: &&&Seen| match waited {
        Some(waited) => waited >= patience.wait,
        None if it.waits() => false,
        None if it.phase == "evaluate" => it.in_phase >= patience.evaluation,
        // Nobody waits in the ring: all do the same, or there is no other.
        None => it.in_phase >= 2 * patience.wait,
    };
    let names = waiting.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    let name = |who: &&Seen| {
        // What the ring brought is for it to take in.
        let phase = if who.waits() { "receive" } else { who.phase.as_str() };
        let seconds = who.in_phase.as_secs_f64();
        let mut account = format!("worker {} is in phase {phase} for {seconds:.1} s", who.name);
        if let Some(waited) = waited {
            let waited = waited.as_secs_f64();
            account = format!("{account}; waiting for it for {waited:.1} s: {names}");
        }
        Found { kept_waiting: waited, ..Found::new(who, phase, who.in_phase, account) }
    };
    behind.iter().filter(late).map(name).collect()
}

fn mute(who: &Seen) -> Found {
    let (name, phase, seconds) = (&who.name, &who.phase, who.silence.as_secs_f64());
    let account =
        format!("worker {name} is not heard of for {seconds:.1} s; it was in phase {phase}");
    Found::new(who, "silent", who.silence, account)
}

/// All wait in the ring: what one has sent and the next has not got is stuck between them.
fn cut_links(all: &[Seen], patience: Duration) -> Vec<Found> {
    if all.len() < 2 || all.iter().any(|it| it.in_phase < patience) {
        return Vec::new();
    }
    let links = all.iter().zip(all.iter().cycle().skip(1));
    links
        .filter(|(from, to)| from.sent > to.received && to.still >= patience)
        .map(|(from, to)| {
            let (chunks, seconds) = (from.sent - to.received, to.still.as_secs_f64());
            let account = format!(
                "worker {} receives nothing from {} for {seconds:.1} s, which has sent {chunks} chunks",
                to.name, from.name
            );
            Found::new(to, "receive", to.still, account)
        })
        .collect()
}

fn slow(all: &[Seen]) -> Vec<Found> {
    all.iter().filter_map(|who| slower_than(who, all)).collect()
}

fn slower_than(who: &Seen, all: &[Seen]) -> Option<Found> {
    let mine = who.pace?;
    let others = || all.iter().filter(|it| it.connection != who.connection);
    let of = |what: fn(&Pace) -> f64| median(others().filter_map(|it| it.pace.as_ref().map(what)));
    let share = mine.microbatches;
    // Each part with what it exceeds that of the others by.
    let between = of(|it| it.between)?;
    let data = of(|it| it.data / it.microbatches)? * share;
    let compute = of(|it| it.compute / it.microbatches)? * share;
    let (own, theirs) = (mine.between + mine.data + mine.compute, between + data + compute);
    let excess = own - theirs;
    if own < SLOW.0 * theirs || excess < SLOW.1 {
        return None;
    }
    let parts = [
        ("update", mine.between - between),
        ("data", mine.data - data),
        ("compute", mine.compute - compute),
    ];
    let (phase, _) = parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let name = &who.name;
    let account = format!(
        "worker {name} is slow in phase {phase}: it comes to the ring after {own:.2} s in each step, \
         the others would after {theirs:.2} s"
    );
    let time = Duration::try_from_secs_f64(excess).unwrap_or_default();
    Some(Found { slow: true, ..Found::new(who, phase, time, account) })
}

fn median(of: impl Iterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        wait: Duration::from_secs(2),
        evaluation: Duration::from_secs(60),
        upload: Duration::from_secs(5),
    };

    fn seconds(it: f64) -> Duration {
        Duration::from_secs_f64(it)
    }

    /// A rank at a step, in a phase for so many seconds.
    fn seen(number: u64, step: u32, phase: &str, time: f64) -> Seen {
        Seen {
            connection: ConnectionId(number),
            name: char::from(b'a' + number as u8).to_string(),
            position: Position { epoch: 0, step },
            phase: phase.to_owned(),
            in_phase: seconds(time),
            silence: Duration::ZERO,
            upload: None,
            sent: 10,
            received: 10,
            still: seconds(time),
            pace: None,
        }
    }

    fn told(all: &[Seen]) -> Vec<(String, String)> {
        let found = judge(all, PATIENCE).into_iter();
        found.map(|it| (it.straggler.name, it.straggler.phase)).collect()
    }

    fn one(name: &str, phase: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), phase.to_owned())]
    }

    #[test]
    fn the_one_that_all_others_wait_for_is_named_whatever_it_does() {
        for phase in ["data", "compute", "checkpoint", "evaluate"] {
            let all = [seen(0, 3, "ring", 2.5), seen(1, 3, phase, 2.6), seen(2, 3, "ring", 2.4)];
            assert_eq!(told(&all), one("b", phase));
        }
        // The step is over for all but one.
        let all = [seen(0, 4, "ring", 2.5), seen(1, 3, "update", 2.6), seen(2, 4, "data", 0.1)];
        assert_eq!(told(&all), one("b", "update"));
        let all = [seen(0, 4, "ring", 2.5), seen(1, 3, "ring", 3.0), seen(2, 4, "ring", 2.5)];
        assert_eq!(told(&all), one("b", "receive"));
        let account = &judge(&all, PATIENCE)[0].straggler.account;
        assert_eq!(
            account,
            "worker b is in phase receive for 3.0 s; waiting for it for 2.5 s: a, c"
        );
    }

    #[test]
    fn nobody_is_named_for_a_wait_that_is_short_or_that_nobody_waits() {
        let all = [seen(0, 3, "ring", 1.0), seen(1, 3, "compute", 5.0)];
        assert_eq!(told(&all), []);
        let all = [seen(0, 3, "compute", 3.0), seen(1, 3, "compute", 3.0)];
        assert_eq!(told(&all), []);
        assert_eq!(told(&[seen(0, 3, "evaluate", 50.0)]), []);
        assert_eq!(told(&[seen(0, 3, "data", 4.5)]), one("a", "data"));
    }

    #[test]
    fn one_that_is_not_heard_of_is_named_before_it_is_lost() {
        let mut all = [seen(0, 3, "ring", 2.0), seen(1, 3, "ring", 2.0)];
        all[1].silence = seconds(2.2);
        assert_eq!(told(&all), one("b", "silent"));
    }

    #[test]
    fn if_all_are_in_the_ring_the_link_is_named_that_delivers_nothing() {
        let mut all = [seen(0, 3, "ring", 4.0), seen(1, 3, "ring", 4.0), seen(2, 3, "ring", 4.0)];
        assert_eq!(told(&all), []);
        all[1].sent = 17;
        assert_eq!(told(&all), one("c", "receive"));
        all[2].still = seconds(0.5);
        assert_eq!(told(&all), []);
        // From the last rank to the first.
        (all[1].sent, all[2].sent) = (10, 11);
        assert_eq!(told(&all), one("a", "receive"));
    }

    #[test]
    fn a_long_upload_is_named_though_nobody_waits_for_it() {
        let mut all = [seen(0, 3, "data", 0.1), seen(1, 3, "compute", 0.1)];
        all[0].upload = Some(seconds(5.5));
        assert_eq!(told(&all), one("a", "upload"));
    }

    fn paced(number: u64, microbatches: f64, parts: (f64, f64, f64)) -> Seen {
        let (between, data, compute) = parts;
        let pace = Some(Pace { microbatches, between, data, compute });
        Seen { pace, ..seen(number, 3, "compute", 0.1) }
    }

    #[test]
    fn a_slow_one_is_told_by_its_time_to_the_ring_for_its_own_share() {
        let parts = (0.01, 0.0, 0.2);
        for (slow, phase) in
            [((0.5, 0.0, 0.2), "update"), ((0.01, 0.6, 0.2), "data"), ((0.01, 0.0, 0.8), "compute")]
        {
            let all = [paced(0, 2.0, parts), paced(1, 2.0, slow), paced(2, 2.0, parts)];
            assert_eq!(told(&all), one("b", phase));
        }
        // One with twice the share may take twice as long.
        let all = [paced(0, 2.0, parts), paced(1, 4.0, (0.01, 0.0, 0.45)), paced(2, 2.0, parts)];
        assert_eq!(told(&all), []);
        // And some milliseconds are not worth a word.
        let all = [paced(0, 2.0, (0.0, 0.0, 0.01)), paced(1, 2.0, (0.0, 0.0, 0.03))];
        assert_eq!(told(&all), []);
    }
}
