//! Cut links, and workers that hold the others up.

use convoy_common::exit;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Who is asked whether it reaches whom, and the number of the question.
fn probes(job: &Job) -> Vec<(u64, u32, Vec<String>)> {
    let asked = job.orders().into_iter().filter_map(|(to, order)| match order {
        Order::Probe { number, seats } => {
            Some((to, *number, seats.iter().map(|it| it.name.clone()).collect()))
        }
        _ => None,
    });
    asked.collect()
}

fn probed(call: u64, number: u32, unreachable: &[&str]) -> Event {
    let unreachable = unreachable.iter().map(|it| (*it).to_owned()).collect();
    Event::Probed { connection: id(call), number, unreachable }
}

/// Two of three train, and the third is back.
fn with_one_back() -> (Job, u32) {
    let mut job = Job::training(3);
    job.gone(2).these_say(&[0, 1], |_| left(reached(0, 2), None));
    job.these_say(&[0, 1], |_| ready_as_before());
    job.now += SECOND * 3;
    job.on(Event::Joined { connection: id(12), hello: hello("c") });
    job.on(Event::Computed { connection: id(12), fingerprint: "f0".to_owned() });
    let asked = probes(&job);
    let number = asked[0].1;
    let c = |it: u64| (it, number, vec!["c".to_owned()]);
    assert_eq!(asked, [(12, number, vec!["a".to_owned(), "b".to_owned()]), c(0), c(1)]);
    (job, number)
}

#[test]
fn one_that_waits_for_a_place_gets_it_when_all_links_to_and_from_it_work() {
    let (mut job, number) = with_one_back();
    assert!(job.on(probed(12, number, &[])).regrouped().is_empty());
    assert!(job.on(probed(0, number, &[])).regrouped().is_empty());
    // What is said twice, or about something else, counts for nothing.
    assert!(job.on(probed(0, number, &[])).regrouped().is_empty());
    assert!(job.on(probed(1, number + 7, &[])).regrouped().is_empty());
    assert_eq!(job.on(probed(1, number, &[])).regrouped(), [0, 1]);
}

#[test]
fn one_that_is_cut_off_from_a_worker_costs_nobody_anything_and_is_tried_again() {
    let (mut job, number) = with_one_back();
    job.on(probed(12, number, &[])).on(probed(0, number, &[]));
    job.on(probed(1, number, &["c"]));
    assert!(matches!(job.notes()[..], [Note::Unreachable { name, with, .. }]
        if name == "c" && *with == ["b"]));
    job.pass(SECOND * 9, &[0, 1, 12]);
    assert!(job.orders().is_empty() && job.phase() == "training");
    job.pass(SECOND, &[0, 1, 12]);
    assert_eq!(probes(&job).len(), 3);
    let again = probes(&job)[0].1;
    assert!(again > number);
    for call in [12, 0, 1] {
        job.on(probed(call, again, &[]));
    }
    assert_eq!(job.regrouped(), [0, 1]);
}

#[test]
fn who_does_not_answer_reaches_nobody_and_who_is_gone_is_not_asked() {
    let (mut job, number) = with_one_back();
    job.on(probed(12, number, &[])).on(probed(0, number, &[]));
    job.pass(SECOND * 6, &[0, 1, 12]);
    assert!(job.notes().iter().any(|it| matches!(it, Note::Unreachable { .. })));
    // The one that does not answer is lost for another reason.
    let (mut job, number) = with_one_back();
    job.on(probed(12, number, &[])).on(probed(0, number, &[])).gone(1);
    job.say(0, left(reached(0, 5), None)).on(Event::Tick);
    let in_it = |job: &Job| job.machine.seated().len();
    job.say(0, ready_as_before()).pass(SECOND * 3, &[0, 12]);
    assert_eq!((in_it(&job), job.regrouped()), (1, vec![0]));
}

/// The ring of a and b breaks, and both say it was the other.
fn broken(job: &mut Job) -> u32 {
    job.say(0, left(reached(0, 4), Some("b"))).say(1, left(reached(0, 4), Some("a")));
    let asked = probes(job);
    let number = asked[0].1;
    assert_eq!(asked, [(1, number, vec!["a".to_owned()]), (0, number, vec!["b".to_owned()])]);
    number
}

#[test]
fn a_link_that_broke_and_does_not_work_when_tried_costs_one_end_its_place_at_once() {
    let mut job = Job::training(2);
    let number = broken(&mut job);
    assert_eq!(job.assignments().len(), 2, "nobody waits for the answer");
    job.on(probed(0, number, &["b"]));
    assert_eq!(job.dismissals(), [(1, exit::WORKER_LOST)]);
    assert_eq!(job.ended(), [0]);
    job.say(0, left(reached(0, 4), None)).say(0, ready_as_before());
    assert_eq!(job.phase(), "training");
    // The second answer finds nothing left to decide.
    assert!(job.on(probed(1, number, &["a"])).effects.is_empty());
}

#[test]
fn a_link_that_works_when_it_is_tried_costs_nobody_its_place() {
    let mut job = Job::training(2);
    let number = broken(&mut job);
    job.on(probed(0, number, &[])).on(probed(1, number, &[]));
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.phase(), "training");
}

#[test]
fn one_that_was_lost_for_a_cut_link_waits_longer_each_time_before_it_is_tried() {
    let mut job = Job::training(2);
    let mut call = 1;
    for wait in [5, 10, 20] {
        job.these_say(&[0, call], |it| left(reached(0, 4), Some(if it == 0 { "b" } else { "a" })));
        let number = probes(&job)[0].1;
        job.on(probed(0, number, &["b"]));
        let bar = job.notes().into_iter().find_map(|note| match note {
            Note::Barred { time, .. } => Some(*time),
            _ => None,
        });
        assert_eq!(bar, Some(SECOND * wait));
        job.say(0, left(reached(0, 4), None)).say(0, ready_as_before());
        call += 10;
        job.on(Event::Joined { connection: id(call), hello: hello("b") });
        job.on(Event::Computed { connection: id(call), fingerprint: "f0".to_owned() });
        assert_eq!(probes(&job), []);
        job.pass(SECOND * (wait - 1), &[0, call]);
        assert_eq!(probes(&job), []);
        job.pass(SECOND * 2, &[0, call]);
        let effects = job.effects.clone();
        job.effects = job.answer_probes(&effects);
        assert_eq!(job.regrouped(), [0]);
        job.say(0, agreed(reached(0, 4)));
        job.say(0, ready_as_before()).say(call, ready());
        assert_eq!((job.phase(), job.machine.seated().len()), ("training", 2));
    }
}

#[test]
fn who_waits_for_a_store_that_fails_is_not_called_slow() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 4))));
    let uploads = |it: &mut Job| {
        let vitals = Vitals { upload: Some(SECOND * 6), ..Vitals::default() };
        let (position, phase) = (at(0, 4), "compute".to_owned());
        it.say(0, beat("compute", 1)).say(1, Report::Heartbeat { position, phase, vitals });
        it.on(Event::Tick);
        it.machine.status(it.now).stragglers.len()
    };
    assert_eq!(uploads(&mut job), 1);
    job.say(1, Report::PartDelayed { error: "nobody answers".to_owned(), hint: None });
    assert_eq!(uploads(&mut job), 0);
    assert_eq!(job.machine.status(job.now).store_trouble.expect("an outage").who, ["b"]);
}

fn beat(phase: &str, seconds: u64) -> Report {
    let vitals = Vitals { in_phase: SECOND * seconds as u32, ..Vitals::default() };
    Report::Heartbeat { position: at(0, 4), phase: phase.to_owned(), vitals }
}

/// Worker b computes for so long, and the others wait for it.
fn stuck(job: &mut Job, seconds: u64) {
    job.say(0, beat("ring", seconds)).say(1, beat("compute", seconds + 1));
    job.say(2, beat("ring", seconds)).on(Event::Tick);
}

#[test]
fn whom_the_others_wait_for_is_named_in_log_and_status_and_when_it_is_over() {
    let mut job = Job::training(3);
    job.say(0, Report::Step(step_at(at(0, 4))));
    stuck(&mut job, 1);
    assert_eq!(job.machine.status(job.now).stragglers, []);
    stuck(&mut job, 2);
    assert!(matches!(job.notes()[..], [Note::Straggles(it)] if it.name == "b"));
    let status = job.machine.status(job.now);
    assert_eq!(status.stragglers[0].phase, "compute");
    assert_eq!(
        status.detail,
        "worker b is in phase compute for 3.0 s; waiting for it for 2.0 s: a, c"
    );
    stuck(&mut job, 3);
    assert!(job.notes().is_empty(), "once is enough");
    job.these_say(&[0, 1, 2], |_| beat("data", 0)).on(Event::Tick);
    assert!(matches!(job.notes()[..], [Note::KeepsUp { name, .. }] if name == "b"));
    // Without the policy nobody is evicted.
    stuck(&mut job, 800);
    assert!(job.dismissals().is_empty());
}

#[test]
fn one_that_others_wait_for_longer_than_the_limit_is_evicted_where_that_is_wanted() {
    let evict = |min_workers| Plan { straggler: Policy::Evict, min_workers, ..plan(3) };
    let mut job = Job::training_with(evict(1));
    stuck(&mut job, 60);
    assert!(job.dismissals().is_empty());
    stuck(&mut job, 61);
    assert_eq!(job.dismissals(), [(1, exit::WORKER_LOST)]);
    assert_eq!(job.ended(), [0, 2]);
    let detail = job.machine.status(job.now).detail;
    assert!(detail.contains("the others waited for it for more than 60 s"), "{detail}");
    // It may come back, but not at once.
    assert!(job.notes().iter().any(|it| matches!(it, Note::Barred { .. })));
    // The job would have too few without it.
    let mut job = Job::training_with(evict(3));
    stuck(&mut job, 61);
    assert!(job.dismissals().is_empty());
}

#[test]
fn a_job_takes_more_workers_than_it_begins_with_as_long_as_there_are_places() {
    let mut job = Job::preparing_with(Plan { max_workers: 3, ..plan(2) });
    job.these_say(&[0, 1], |_| ready());
    job.now += SECOND * 3;
    job.join(2);
    assert_eq!(job.regrouped(), [0, 1]);
    job.these_say(&[0, 1], |_| agreed(reached(0, 3)));
    assert_eq!(job.assignments().len(), 3);
    job.join(3);
    assert!(job.effects.iter().any(|it| matches!(it, Effect::Refuse { .. })));
}
