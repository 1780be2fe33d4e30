use super::*;

fn progress(job: &Job) -> Vec<&Progress> {
    let lines = job.notes().into_iter().filter_map(|note| match note {
        Note::Progress(progress) => Some(progress),
        _ => None,
    });
    lines.collect()
}

#[test]
fn a_progress_line_sums_up_the_steps_since_the_last_one() {
    let mut job = Job::training(1);
    for step in 1..5 {
        job.say(0, Report::Step(step_at(at(0, step))));
        assert!(progress(&job).is_empty());
    }
    job.say(0, Report::Step(StepReport { loss: 7.0, ..step_at(at(0, 5)) }));
    let lines = progress(&job);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((line.position, line.global_step, line.steps), (at(0, 5), 5, 5));
    assert_eq!((line.loss, line.top1), (3.0, 0.5));
    assert_eq!(line.images_per_second, 20.0);
    // 15 steps of half a second are left; no evaluation's time is known.
    assert_eq!(line.eta, Some(Duration::from_millis(7500)));
}

#[test]
fn the_time_left_counts_the_evaluations_to_come() {
    let mut job = Job::training(1);
    job.say(0, Report::Step(step_at(at(1, 0))));
    job.say(
        0,
        Report::Evaluated(Evaluation {
            position: at(1, 0),
            samples: 20,
            top1_correct: 10,
            top5_correct: 15,
            loss: 1.0,
            seconds: 4.0,
            learning_rate: 0.01,
            schedule_done: false,
        }),
    );
    // Ten steps of half a second, then the last evaluation.
    assert_eq!(job.machine.status(job.now).eta, Some(Duration::from_secs(9)));
}

#[test]
fn a_drop_of_the_rate_is_told_once_with_the_position_where_it_took_effect() {
    let mut job = Job::training(1);
    job.say(0, Report::Step(step_at(at(0, 9))));
    let lower = |position| StepReport { learning_rate: 0.001, ..step_at(position) };
    job.say(0, Report::Step(lower(at(1, 0))));
    let change = Note::RateChanged { position: at(0, 9), from: 0.01, to: 0.001 };
    assert_eq!(job.notes().into_iter().filter(|it| **it == change).count(), 1);
    job.say(0, Report::Step(lower(at(1, 1))));
    assert!(job.notes().is_empty());
}

#[test]
fn a_part_of_a_checkpoint_older_than_the_last_one_makes_no_second_manifest() {
    let mut job = Job::training(1);
    for step in [1, 2] {
        job.say(0, part(at(0, step), 0));
        assert_eq!(job.publications().len(), 1);
        job.on(Event::ManifestPublished(kept(at(0, step))));
    }
    job.say(0, part(at(0, 1), 0));
    assert!(job.publications().is_empty());
}

#[test]
fn a_rate_that_moves_in_each_step_by_plan_is_no_news() {
    let mut job = Job::training_with(Plan { rate_moves_until: 3, ..plan(1) });
    let mut changes = Vec::new();
    for step in 1..6 {
        let learning_rate = 0.01 * f64::from(step);
        job.say(0, Report::Step(StepReport { learning_rate, ..step_at(at(0, step)) }));
        changes.extend(job.notes().into_iter().filter_map(|it| match it {
            Note::RateChanged { position, .. } => Some(*position),
            _ => None,
        }));
    }
    assert_eq!(changes, [at(0, 3), at(0, 4)]);
}

#[test]
fn steps_count_from_the_lowest_rank_and_forwards_alone() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 3))));
    job.say(1, Report::Step(step_at(at(0, 4))));
    assert!(matches!(job.notes()[..], [Note::Ignored { what: "step", .. }]));
    job.say(0, Report::Step(step_at(at(0, 2))));
    assert!(matches!(job.notes()[..], [Note::Ignored { .. }]));
    assert_eq!(job.machine.status(job.now).position, at(0, 3));
}

#[test]
fn words_about_another_generation_are_dropped() {
    let mut job = Job::training(1);
    let generation = Generation { term: Term(2), counter: 1 };
    let report = end(at(0, 1), Cause::Completed);
    job.on(Event::Said { connection: id(0), generation, report });
    assert!(matches!(job.notes()[..], [Note::Ignored { what: "finished", .. }]));
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_checkpoint_is_published_when_the_parts_of_all_ranks_are_in() {
    let mut job = Job::training(2);
    assert!(job.say(1, part(at(0, 5), 1)).publications().is_empty());
    // The same part again makes nothing complete.
    assert!(job.say(1, part(at(0, 5), 1)).publications().is_empty());
    job.say(0, part(at(0, 5), 0));
    let publications = job.publications();
    let names: Vec<&str> = publications[0].parts.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["part-3-0of2-x.safetensors", "part-3-1of2-x.safetensors"]);
    assert_eq!(publications[0].shared, shared(at(0, 5)));

    job.on(Event::ManifestPublished(kept(at(0, 5))));
    assert!(matches!(
        job.effects[..],
        [
            Effect::Log(Note::CheckpointPublished(_)),
            Effect::Send { order: Order::Settled { .. }, .. },
            Effect::Send { order: Order::Settled { .. }, .. },
            Effect::Prune { living: Term(3) },
        ]
    ));
    assert_eq!(job.machine.status(job.now).last_checkpoint, Some(kept(at(0, 5))));
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_part_that_failed_abandons_its_checkpoint_and_nothing_else() {
    let mut job = Job::training(2);
    job.say(0, part(at(0, 5), 0));
    job.say(1, part_failed(at(0, 5), "disk full"));
    let why = Abandoned::PartFailed { name: "b".to_owned(), error: "disk full".to_owned() };
    assert_eq!(job.notes(), [&Note::CheckpointAbandoned { position: at(0, 5), why }]);
    job.say(0, part_failed(at(0, 5), "disk full"));
    assert!(job.notes().is_empty(), "one line is enough");
    assert!(job.say(1, part(at(0, 5), 1)).publications().is_empty());

    job.say(0, part(at(0, 8), 0));
    assert_eq!(job.say(1, part(at(0, 8), 1)).publications().len(), 1);
    job.on(Event::ManifestFailed { position: at(0, 8), error: "denied".to_owned() });
    assert!(matches!(job.notes()[..], [Note::CheckpointAbandoned { .. }]));
    assert_eq!(job.phase(), "training");
}

#[test]
fn ranks_that_disagree_about_what_they_share_make_no_checkpoint() {
    let mut job = Job::training(3);
    job.say(0, part(at(0, 5), 0)).say(2, part(at(0, 5), 2));
    let mut odd = part(at(0, 5), 1);
    if let Report::PartUploaded { shared, .. } = &mut odd {
        shared.samples_seen += 1;
    }
    job.say(1, odd);
    let why = Abandoned::Disagreement { odd: vec!["b".to_owned()] };
    assert_eq!(job.notes(), [&Note::CheckpointAbandoned { position: at(0, 5), why }]);
}

#[test]
fn parts_that_never_become_complete_are_given_up() {
    let mut job = Job::training(2);
    job.say(0, part(at(0, 1), 0));
    job.say(0, part(at(0, 2), 0)).say(1, part(at(0, 2), 1));
    let why = Abandoned::Overtaken;
    assert!(job.notes().contains(&&Note::CheckpointAbandoned { position: at(0, 1), why }));

    let mut job = Job::training(2);
    for step in 1..100 {
        job.say(0, part(at(0, step), 0));
    }
    assert!(job.machine.checkpoints.collecting() <= 8);
}

#[test]
fn the_majority_names_the_worker_whose_state_is_another_and_nothing_of_it_is_kept() {
    let mut job = Job::training(3);
    job.all_say(|number| part(at(0, 3), number));
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    job.say(2, part(at(0, 5), 2)).say(0, part(at(0, 5), 0));
    assert_eq!(job.phase(), "training", "two of three have spoken");
    job.say(1, part_of(at(0, 5), 1, "bad"));
    assert!(job.publications().is_empty());
    assert_eq!(job.dismissals(), [(0, 72), (1, 72), (2, 72)]);
    let outcome = job.outcome();
    assert_eq!((outcome.kind, outcome.exit_code), (Ending::Failed, convoy_common::exit::DIVERGED));
    assert_eq!(
        outcome.message,
        "worker b holds another state than the majority at epoch 0 step 5 (a, c: d1; b: bad); the \
         last agreed checkpoint is checkpoints/1/000000000003/manifest.json"
    );
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 3))));
    assert!(outcome.hint.is_some_and(|it| it.contains("go on from the last checkpoint")));
}

#[test]
fn of_two_workers_both_are_named() {
    let mut job = Job::training(2);
    job.say(0, part(at(0, 5), 0)).say(1, part_of(at(0, 5), 1, "bad"));
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, convoy_common::exit::DIVERGED);
    assert_eq!(
        outcome.message,
        "workers a, b hold different states, and there is no majority at epoch 0 step 5 (a: d1; b: \
         bad); there is no agreed checkpoint"
    );
}

#[test]
fn states_are_compared_even_where_a_part_was_not_stored() {
    let mut job = Job::training(3);
    job.say(1, part_failed(at(0, 5), "disk full")).say(0, part(at(0, 5), 0));
    job.say(2, part_of(at(0, 5), 2, "bad"));
    assert!(job.outcome().message.starts_with("worker c holds another state"));
}

#[test]
fn a_part_of_a_checkpoint_older_than_the_last_one_publishes_nothing_again() {
    let mut job = Job::training(1);
    job.say(0, part(at(1, 9), 0)).say(0, part(at(1, 8), 0));
    job.on(Event::ManifestPublished(kept(at(1, 8))));
    job.on(Event::ManifestPublished(kept(at(1, 9))));
    assert!(job.say(0, part(at(1, 8), 0)).publications().is_empty());
}
