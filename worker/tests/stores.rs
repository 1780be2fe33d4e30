//! A run whose store fails, or whose workers are lost while a checkpoint is made: training goes on,
//! what exists is good, and the end is that of a run in which nothing happened.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "../../common/tests/support/disk.rs"]
mod disk;
mod together;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use convoy_common::checkpoint::Manifest;
use convoy_common::exit;
use convoy_common::ids::Position;
use convoy_worker::train::Moment;
use together::hooked::Hook;
use together::{Diary, Job, Node, Plant, both, nothing, once, slowly};

/// A checkpoint after each step, of which none is removed.
const OFTEN: [&str; 2] = ["checkpoint.every_steps=1", "checkpoint.keep_last=100"];
const END: Position = Position { epoch: 4, step: 0 };

fn at(epoch: u32, step: u32) -> Position {
    Position { epoch, step }
}

/// What a run comes to in which nothing happens.
struct Quiet {
    diary: Diary,
    end: Manifest,
}

fn quiet() -> &'static Quiet {
    static QUIET: OnceLock<Quiet> = OnceLock::new();
    QUIET.get_or_init(|| {
        let job = Job::new(1, &[]);
        let worker = job.join("only", nothing());
        assert_eq!(job.outcome().exit_code, exit::OK);
        assert_eq!(worker.code(), exit::OK);
        Quiet { diary: job.diary(), end: job.checkpoint() }
    })
}

fn join_all(job: &Job, plants: Vec<Plant>) -> Vec<Node> {
    let join = |(number, plant)| {
        let name = char::from(b'a' + number as u8).to_string();
        job.join(&name, plant)
    };
    plants.into_iter().enumerate().map(join).collect()
}

/// The job ends as the quiet run did, and each checkpoint is the state that the quiet run had there.
fn ends_quietly(job: &Job, what: &str) {
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::OK, "{what}: {outcome:?}");
    assert_eq!(job.diary(), quiet().diary, "{what}");
    let all = job.all_checkpoints();
    for it in &all {
        let expected = quiet().diary.get(&it.shared.position);
        assert_eq!(Some(&it.state_digest), expected, "{what}: {}", it.shared.position);
    }
    let end = all.last().expect("a checkpoint");
    assert_eq!(end.state_digest, quiet().end.state_digest, "{what}");
    assert_eq!(end.shared.samples_seen, quiet().end.shared.samples_seen, "{what}");
}

#[test]
fn checkpoints_wait_for_a_store_that_is_away_and_training_does_not() {
    let job = Job::new(2, &OFTEN);
    let switch = job.switch();
    let off = switch.clone();
    let slow = slowly(150);
    let breaks: Plant = Box::new(move |life, moment, position| {
        if (moment, position) == (Moment::Data, at(0, 2)) {
            off.off();
        }
        slow(life, moment, position)
    });
    let _nodes = join_all(&job, vec![breaks, slowly(150)]);
    job.until("checkpoints wait", |it| it.store_trouble.is_some());
    let (since, trouble) = (job.status().position, job.status().store_trouble.unwrap());
    assert!(trouble.error.contains("Not a directory"), "{trouble:?}");
    assert!(trouble.hint.is_some() && !trouble.who.is_empty(), "{trouble:?}");
    job.until("training goes on", |it| it.position >= at(since.epoch + 1, since.step));
    switch.on();
    job.until("the store is back", |it| it.store_trouble.is_none());
    ends_quietly(&job, "an outage");
}

#[test]
fn a_store_that_is_away_at_the_end_is_waited_for() {
    let job = Job::new(2, &[]);
    let switch = job.switch();
    let off = once(END, Moment::Evaluate, move |_| {
        switch.off_for(Duration::from_millis(800));
        Ok(())
    });
    let _nodes = join_all(&job, vec![off, nothing()]);
    ends_quietly(&job, "an outage at the end");
}

#[test]
fn a_store_that_does_not_come_back_ends_the_run_with_what_is_saved_and_it_goes_on_later() {
    let extra = [&OFTEN[..], &["checkpoint.final_timeout=2s"]].concat();
    let job = Job::new(2, &extra);
    let switch = job.switch();
    let off = switch.clone();
    // Those before may wait for their uploads: one of them at least exists.
    let away = once(at(3, 1), Moment::Data, move |_| {
        off.off();
        Ok(())
    });
    let nodes = join_all(&job, vec![both(slowly(100), away), slowly(100)]);
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::UNAVAILABLE, "{outcome:?}");
    for said in
        ["training ended at", "given up after", "Not a directory", "saved is what came before"]
    {
        assert!(outcome.message.contains(said), "{said:?}: {outcome:?}");
    }
    assert!(outcome.hint.unwrap().contains("start the same config again"));
    let kept = outcome.last_checkpoint.expect("an older one").position;
    for node in &nodes {
        assert_eq!(node.code(), exit::UNAVAILABLE);
    }
    drop(nodes);
    switch.on();
    assert_eq!(job.all_checkpoints().last().unwrap().shared.position, kept);
    let job = job.again(1, &OFTEN);
    let _only = job.join("only", nothing());
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(job.all_checkpoints().last().unwrap().state_digest, quiet().end.state_digest);
}

#[test]
fn manifests_wait_for_a_store_that_only_the_coordinator_cannot_reach() {
    let hook = Hook::away(2);
    let job = Job::with_ledger(2, &OFTEN, hook.clone());
    let _nodes = join_all(&job, vec![slowly(100), slowly(100)]);
    job.until("manifests wait", |it| it.store_trouble.is_some());
    let trouble = job.status().store_trouble.unwrap();
    assert_eq!(trouble.who, ["the coordinator"]);
    assert!(trouble.error.ends_with("connection refused"), "{trouble:?}");
    ends_quietly(&job, "manifests wait");
    assert!(hook.asked() > 3 && job.status().store_trouble.is_none());
    assert!(job.all_checkpoints().len() > 2);
}

#[test]
fn a_full_disk_is_waited_for_until_somebody_makes_room() {
    // The run's record fits, and a part does not.
    // Mounting takes root.
    let Some(disk) = disk::Disk::of(128) else { return };
    let place = disk.path().to_owned();
    let url = format!("run.url='{}'", place.join("full").display());
    let job = Job::new(2, &["checkpoint.every_steps=4", "checkpoint.keep_last=100", &url]);
    let _nodes = join_all(&job, vec![slowly(50), slowly(50)]);
    job.until("checkpoints wait", |it| it.store_trouble.is_some());
    let trouble = job.status().store_trouble.unwrap();
    assert!(trouble.error.contains("there is no room left"), "{trouble:?}");
    assert!(trouble.hint.unwrap().contains("free space"));
    job.until("training goes on", |it| it.position >= at(2, 0));
    disk::resize(&place, 64 << 10);
    ends_quietly(&job, "a full disk");
}

/// One of three workers dies at that moment of a checkpoint; the others go on.
fn lose(victim: usize, position: Position, moment: Moment) {
    let what = format!("{victim} lost at {position}, {moment:?}");
    // Slow enough for the loss to be known before the next checkpoint is due of itself.
    let plant = |number| match number == victim {
        true => both(slowly(150), once(position, moment, |life| life.die())),
        false => slowly(150),
    };
    // The first one falls due at the fourth step, when every slot is free.
    let job = Job::new(3, &["checkpoint.every_steps=4", "checkpoint.keep_last=100"]);
    let _nodes = join_all(&job, (0..3).map(plant).collect());
    ends_quietly(&job, &what);
    assert_eq!(job.status().generation.unwrap().counter, 2, "{what}");
    // The next generation owes one, and takes it soon: some may have been a step ahead.
    let first = job.all_checkpoints()[0].shared.position;
    assert!(first <= position.max(at(2, 1)), "{what}: the first one is at {first}");
}

#[test]
fn a_worker_lost_while_a_checkpoint_is_made_leaves_no_trace() {
    lose(0, at(1, 1), Moment::Snapshot);
    lose(2, at(1, 1), Moment::Upload);
    lose(1, at(1, 1), Moment::Uploaded);
}

#[test]
fn a_worker_lost_while_the_last_checkpoint_is_made_leaves_no_trace() {
    lose(1, END, Moment::Upload);
    lose(0, END, Moment::Uploaded);
}

#[test]
fn what_the_coordinator_did_not_live_to_publish_is_made_again() {
    let hook = Hook::never();
    let job = Job::with_ledger(2, &["checkpoint.every_steps=2"], hook.clone());
    let nodes = join_all(&job, vec![slowly(50), slowly(50)]);
    let second = || hook.asked() > 1;
    job.until("a second manifest is due", |_| second());
    nodes.iter().for_each(|node| node.life().end());
    drop(nodes);
    let parts = || {
        let lineage = std::fs::read_dir(job.folder().join("run/checkpoints/1")).unwrap();
        let folders = lineage.map(|it| it.unwrap().path());
        let names = folders.flat_map(|it| std::fs::read_dir(it).unwrap());
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        names.filter(|it| it.starts_with("part-1-")).count()
    };
    assert!(parts() > 2, "of one that exists, and of one that does not");
    let job = job.again(2, &OFTEN);
    let _nodes = join_all(&job, vec![nothing(), nothing()]);
    assert_eq!(job.outcome().exit_code, exit::OK);
    let all = job.all_checkpoints();
    assert_eq!(all.last().unwrap().state_digest, quiet().end.state_digest);
    let named = all.iter().flat_map(|it| &it.parts).filter(|it| it.name.starts_with("part-1-"));
    let lineage = job.folder().join("run/checkpoints/1");
    let left = std::fs::read_dir(lineage).unwrap().flat_map(|it| {
        std::fs::read_dir(it.unwrap().path()).unwrap().map(|it| it.unwrap().file_name())
    });
    let left = left.filter(|it| it.to_str().unwrap().starts_with("part-1-")).count();
    assert_eq!(left, named.count(), "what nobody published is swept");
}

#[test]
fn a_joiner_that_dies_while_it_takes_a_state_costs_nothing_but_the_transfer() {
    let job = Job::new(3, &[]);
    let taker = Arc::new(Mutex::new(None));
    // The lowest rank gives.
    let _a = job.join_as_donor_of("a", slowly(250), &taker);
    let _b = job.join("b", once(at(0, 1), Moment::Ring, |life| life.die()));
    let _c = job.join("c", slowly(250));
    job.until("b is gone", |it| it.workers.len() == 2 && it.phase == "training");
    let d = job.join("d", nothing());
    *taker.lock().unwrap() = Some(d.life());
    ends_quietly(&job, "a joiner dies");
    // All three, two, three of which one dies, the two that are left.
    assert_eq!(job.status().generation.unwrap().counter, 4);
}
