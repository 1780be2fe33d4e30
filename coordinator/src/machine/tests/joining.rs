use convoy_common::exit;

use super::*;

fn refusal(plan: Plan, hello: Hello) -> Option<Refusal> {
    let mut job = Job::new(plan);
    job.on(Event::Joined { connection: id(9), hello });
    job.effects.iter().find_map(|effect| match effect {
        Effect::Refuse { refusal, .. } => Some(refusal.clone()),
        _ => None,
    })
}

#[test]
fn training_begins_when_all_workers_have_joined_and_are_ready() {
    let mut job = Job::new(plan(2));
    job.join(1);
    assert_eq!(job.orders(), [(1, &Order::Welcome)]);
    assert_eq!(job.machine.status(job.now).detail, "1 of 2 workers joined (b)");

    job.join(0);
    let orders = job.orders();
    assert_eq!(orders[0], (0, &Order::Welcome));
    let Order::Assign(first) = orders[1].1 else { panic!("{orders:?}") };
    assert_eq!(first.generation, Generation { term: Term(3), counter: 1 });
    let names: Vec<&str> = first.roster.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let ranks: Vec<(u64, u32)> = orders[1..]
        .iter()
        .map(|(to, order)| match order {
            Order::Assign(it) => (*to, it.rank.0),
            order => panic!("{order:?}"),
        })
        .collect();
    assert_eq!(ranks, [(0, 0), (1, 1)]);

    job.say(1, Report::Ready { state_digest: "d0".to_owned() });
    assert_eq!(job.machine.status(job.now).detail, "1 of 2 workers are ready");
    job.say(0, Report::Ready { state_digest: "d0".to_owned() });
    let begin = Order::Begin(job.generation());
    assert_eq!(job.orders(), [(0, &begin), (1, &begin)]);
    assert_eq!(job.phase(), "training");
}

#[test]
fn bf16_is_suggested_once_to_a_new_run_whose_workers_all_have_units_for_it() {
    let suggestions = |plan: Plan, units: [bool; 2]| {
        let mut job = Job::new(plan);
        let mut seen = 0;
        for (number, bf16_units) in units.into_iter().enumerate() {
            let hello = Hello { bf16_units, ..hello(["a", "b"][number]) };
            job.join_as(id(number as u64), hello, "f0");
            let said = |it: &&Effect| matches!(it, Effect::Log(Note::Bf16Possible));
            seen += job.effects.iter().filter(said).count();
        }
        seen
    };
    assert_eq!(suggestions(plan(2), [true, true]), 1);
    assert_eq!(suggestions(plan(2), [true, false]), 0);
    assert_eq!(suggestions(Plan { fp32: false, ..plan(2) }, [true, true]), 0);
    let start = Start { checkpoint: Some(kept(at(1, 2))), ..Start::default() };
    assert_eq!(suggestions(Plan { start, ..plan(2) }, [true, true]), 0);
}

#[test]
fn a_resumed_job_assigns_the_checkpoint_and_its_position() {
    let mut plan = plan(1);
    plan.start = Start {
        drops: Vec::new(),
        position: at(1, 2),
        checkpoint: Some(kept(at(1, 2))),
        state_digest: Some("d7".to_owned()),
    };
    let mut job = Job::preparing_with(plan);
    let orders = job.orders();
    let Order::Assign(assignment) = orders[1].1 else { panic!("{orders:?}") };
    assert_eq!(assignment.start, reached(1, 2));
    let path = "checkpoints/1/000000000012/manifest.json".to_owned();
    assert_eq!(assignment.resume, Resume::Checkpoint(path));
    job.say(0, Report::Ready { state_digest: "d7".to_owned() });
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_restored_state_that_is_not_the_checkpoints_ends_the_job() {
    let mut plan = plan(1);
    plan.start.state_digest = Some("d7".to_owned());
    let mut job = Job::preparing_with(plan);
    let outcome = job.say(0, Report::Ready { state_digest: "d8".to_owned() }).outcome();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.contains("d8") && outcome.message.contains("d7"), "{outcome:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason_and_a_hint() {
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello("a");
        change(&mut hello);
        hello
    };
    let cases: [(&str, Hello); 8] = [
        (
            "the worker is of version 0.9, the coordinator of 1.2.3",
            with(|it| it.version = "0.9".into()),
        ),
        ("the worker speaks protocol 2, the coordinator 1", with(|it| it.protocol = 2)),
        (
            "the worker expects the config ff, this job has c0",
            with(|it| it.expect_config = Some("ff".into())),
        ),
        ("\"a b\" is no name for a worker", with(|it| it.name = "a b".into())),
        ("\"\" is no name for a worker", with(|it| it.name = String::new())),
        ("\"nowhere\" is no ring address", with(|it| it.ring_address = "nowhere".into())),
        ("\"h:0\" is no ring address", with(|it| it.ring_address = "h:0".into())),
        (
            "the run's kernels use 2 threads (numerics.threads_per_lane), and the worker has cores \
             for 1",
            with(|it| it.cores = Some(1)),
        ),
    ];
    for (reason, hello) in cases {
        let refusal = refusal(plan(2), hello).expect(reason);
        assert_eq!(refusal.to_string(), reason);
        assert!(!refusal.hint().is_empty());
    }
    assert_eq!(refusal(plan(2), with(|it| it.expect_config = Some("c0".into()))), None);
}

#[test]
fn cores_that_are_not_known_or_not_used_are_not_counted() {
    let mut on_gpu = Hello { cores: Some(1), ..hello("a") };
    on_gpu.device = "cuda:0".to_owned();
    assert_eq!(refusal(plan(2), on_gpu), None);
    assert_eq!(refusal(plan(2), Hello { cores: None, ..hello("a") }), None);
}

#[test]
fn a_worker_that_computes_other_bits_is_refused_and_its_place_is_free_again() {
    let mut job = Job::new(plan(2));
    job.join(0);
    let recorded = |it: &Effect| matches!(it, Effect::RecordFingerprint(it) if it == "f0");
    assert!(job.effects.iter().any(recorded), "{:?}", job.effects);
    job.join_as(id(1), hello("b"), "f1");
    let refusal = job.effects.iter().find_map(|effect| match effect {
        Effect::Refuse { to, refusal } if *to == id(1) => Some(refusal),
        _ => None,
    });
    assert_eq!(
        refusal.expect("a refusal").to_string(),
        "the worker computes other bits than the run: its numerics fingerprint is f1, the run's is \
         f0"
    );
    assert_eq!(job.machine.status(job.now).detail, "1 of 2 workers joined (a)");
    job.gone(1).join_as(id(2), hello("c"), "f0");
    assert_eq!(job.phase(), "preparing");
    assert!(!job.effects.iter().any(recorded), "once is enough");
}

#[test]
fn a_recorded_fingerprint_binds_the_first_worker_too_unless_mixed_numerics_are_allowed() {
    let recorded = || Plan { fingerprint: Some("f9".to_owned()), ..plan(1) };
    let mut job = Job::new(recorded());
    job.join(0);
    assert!(job.effects.iter().any(|it| matches!(it, Effect::Refuse { .. })), "{:?}", job.effects);
    assert_eq!(job.phase(), "waiting");

    let mut job = Job::new(Plan { allow_mixed_numerics: true, ..recorded() });
    job.join(0);
    assert_eq!(job.phase(), "preparing");
    let note = job.notes().into_iter().find_map(|note| match note {
        Note::Fingerprint { of_run, .. } => Some(of_run.clone()),
        _ => None,
    });
    assert_eq!(note, Some(Some("f9".to_owned())), "it is told that the bits are others");
}

#[test]
fn nobody_gets_a_rank_before_all_have_computed_their_fingerprint() {
    let mut job = Job::new(plan(2));
    job.join(0).on(Event::Joined { connection: id(1), hello: hello("b") });
    assert_eq!(job.orders(), [(1, &Order::Welcome)]);
    assert_eq!(job.phase(), "waiting");
    job.on(Event::Computed { connection: id(1), fingerprint: "f0".to_owned() });
    assert_eq!(job.phase(), "preparing");
    // Again, or from nobody, it means nothing.
    for call in [1, 77] {
        job.on(Event::Computed { connection: id(call), fingerprint: "f7".to_owned() });
        assert!(job.effects.is_empty());
    }
}

#[test]
fn a_second_worker_of_one_name_and_one_too_many_are_refused() {
    let mut job = Job::new(plan(2));
    job.join(0).on(Event::Joined { connection: id(5), hello: hello("a") });
    assert!(matches!(
        &job.effects[..],
        [_, Effect::Refuse { refusal: Refusal::Duplicate(name), .. }] if name == "a"
    ));
    job.join(1).join(2);
    let Effect::Refuse { refusal, .. } = &job.effects[1] else { panic!("{:?}", job.effects) };
    assert_eq!(refusal.to_string(), "the job is full: it has its 2 workers");
    job.all_say(|_| Report::Ready { state_digest: "d0".to_owned() });
    job.on(Event::Joined { connection: id(8), hello: hello("d") });
    assert!(matches!(
        &job.effects[..],
        [_, Effect::Refuse { refusal: Refusal::Full { workers: 2 }, .. }]
    ));
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_place_that_becomes_free_before_training_can_be_taken_again() {
    let mut job = Job::new(plan(2));
    job.join(0).gone(0);
    assert!(matches!(job.notes()[..], [Note::LeftEarly { have: 0, need: 2, .. }]));
    job.join_as(id(7), hello("a"), "f0").join(1);
    assert_eq!(job.phase(), "preparing");
}

#[test]
fn a_worker_that_falls_silent_while_waiting_frees_its_place() {
    let mut job = Job::new(plan(2));
    job.join(0).join_and_keep_alive();
    assert_eq!(job.machine.status(job.now).detail, "0 of 2 workers joined");
}

impl Job {
    fn join_and_keep_alive(&mut self) {
        self.pass(Duration::from_secs(2), &[0]);
        assert!(self.orders().is_empty(), "{:?}", self.effects);
        self.pass(Duration::from_secs(4), &[]);
        assert_eq!(self.dismissals(), [(0, exit::WORKER_LOST)]);
    }
}

#[test]
fn a_worker_that_has_yet_to_speak_may_take_as_long_as_preparing_may() {
    let mut job = Job::new(plan(2));
    job.on(Event::Joined { connection: id(0), hello: hello("a") });
    job.pass(Duration::from_secs(30), &[]);
    assert!(job.orders().is_empty(), "{:?}", job.effects);
    job.pass(Duration::from_secs(1), &[]);
    assert_eq!(job.dismissals(), [(0, exit::WORKER_LOST)]);
}

#[test]
fn too_few_workers_in_time_end_the_job_with_their_number_and_names() {
    let mut job = Job::new(plan(3));
    job.join(2).join(0).pass(Duration::from_secs(60), &[0, 2]);
    assert_eq!(job.dismissals(), [(0, exit::UNAVAILABLE), (2, exit::UNAVAILABLE)]);
    let outcome = job.outcome();
    assert_eq!(outcome.message, "2 of 3 workers joined (a, c) after 60 s");
    assert!(outcome.hint.is_some());
}

#[test]
fn unequal_states_name_the_odd_ones() {
    let mut job = Job::preparing(3);
    job.all_say(|number| Report::Ready { state_digest: format!("d{}", u64::from(number == 1)) });
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.contains("odd: b (a, c: d0; b: d1)"), "{}", outcome.message);

    let mut job = Job::preparing(2);
    job.all_say(|number| Report::Ready { state_digest: format!("d{number}") });
    assert!(job.outcome().message.contains("odd: a, b"));
}

#[test]
fn those_who_are_not_ready_in_time_are_lost_and_the_others_begin_without_them() {
    let mut job = Job::preparing(2);
    job.say(0, ready());
    job.pass(Duration::from_secs(31), &[0, 1]);
    assert_eq!(job.dismissals(), [(1, exit::WORKER_LOST)]);
    assert_eq!(job.ended(), [0]);
    job.say(0, left(reached(0, 0), None));
    assert_eq!(job.assignments()[&0].resume, Resume::Seed);
    job.say(0, ready());
    assert_eq!(job.phase(), "training");
}

#[test]
fn what_is_wrong_for_everybody_ends_the_job_with_its_own_exit_code() {
    let mut job = Job::preparing(2);
    job.say(1, failed(exit::BAD_INPUT));
    assert_eq!(job.dismissals(), [(0, exit::BAD_INPUT), (1, exit::BAD_INPUT)]);
    assert!(job.outcome().message.starts_with("worker b failed: the disk is gone"));
}

#[test]
fn nobody_is_lost_while_the_coordinator_itself_stood_still() {
    let mut job = Job::training(2);
    job.now += Duration::from_secs(300);
    job.on(Event::Tick);
    assert!(matches!(job.notes()[..], [Note::WasAway { .. }]));
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_refusal_that_will_pass_has_a_code_of_its_own() {
    let mut job = Job::training(2);
    let code = |job: &Job| {
        let refusal = job.effects.iter().find_map(|effect| match effect {
            Effect::Refuse { refusal, .. } => Some(refusal.exit_code()),
            _ => None,
        });
        refusal.expect("a refusal")
    };
    for name in ["a", "c"] {
        job.on(Event::Joined { connection: id(9), hello: hello(name) });
        assert_eq!(code(&job), exit::UNAVAILABLE, "{name}");
        job = Job::training(2);
    }
    let other = Hello { version: "0.9".to_owned(), ..hello("c") };
    assert_eq!(code(job.on(Event::Joined { connection: id(9), hello: other })), exit::BAD_INPUT);
}

#[test]
fn who_wants_to_go_makes_room_for_another() {
    let mut job = Job::training(2);
    job.on(Event::Leaving { connection: id(1), reason: "SIGTERM".to_owned() });
    job.join(2);
    assert!(!job.effects.iter().any(|it| matches!(it, Effect::Refuse { .. })));
    // The state is with the one that goes, so the new one has to wait for its turn.
    job.say(1, agreed(reached(0, 3))).say(0, left(reached(0, 2), Some("b")));
    assert_eq!(job.assignments().keys().copied().collect::<Vec<_>>(), [0, 1]);
    job.these_say(&[0, 1], |_| ready_as_before());
    job.these_say(&[0, 1], |_| agreed(reached(0, 4)));
    assert_eq!(job.dismissals(), [(1, exit::OK)]);
    assert_eq!(job.assignments().keys().copied().collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_first_generation_that_broke_before_its_states_were_compared_is_compared_again() {
    let said = |digest: &str| Report::Ready { state_digest: digest.to_owned() };
    let start = Start {
        position: at(1, 2),
        checkpoint: Some(kept(at(1, 2))),
        state_digest: Some("d7".to_owned()),
        ..Start::default()
    };
    let mut job = Job::preparing_with(Plan { start, ..plan(3) });
    job.say(0, said("d7")).say(1, said("d8")).gone(2);
    job.these_say(&[0, 1], |_| left(reached(1, 2), None));
    let path = kept(at(1, 2)).path;
    for assignment in job.assignments().values() {
        assert_eq!(assignment.resume, Resume::Checkpoint(path.clone()));
        assert_eq!(assignment.start, reached(1, 2));
    }
    job.say(0, said("d7")).say(1, said("d8"));
    assert!(job.outcome().message.contains("workers do not hold equal states"));

    // Once compared, what is held is kept, at the same position too.
    let mut job = Job::training(2);
    job.gone(1).say(0, left(reached(0, 0), None));
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
}

#[test]
fn those_who_come_in_place_of_all_take_over_from_one_of_those_who_go() {
    // Every place is taken, both are to go, and two wait for their places.
    let mut job = Job::training(2);
    for number in [0, 1] {
        job.on(Event::Leaving { connection: id(number), reason: "asked".to_owned() });
        if number == 0 {
            job.join_as(id(12), hello("c"), "f0").reach_all();
        }
    }
    job.join_as(id(13), hello("d"), "f0").reach_all();
    job.these_say(&[0, 1], |_| agreed(reached(0, 5)));
    let seats: Vec<u64> = job.assignments().keys().copied().collect();
    assert!(seats.contains(&12), "{seats:?}");
    let holders = seats.iter().filter(|it| **it < 2).count();
    assert_eq!(holders, 1, "{seats:?}");
}
