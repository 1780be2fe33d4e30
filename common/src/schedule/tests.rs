use super::Observation::{Done, Dropped, Improved, Stalled};
use super::*;
use crate::config::{Optimizer, RateDrop, Schedule, Train};

const START: Position = Position { epoch: 0, step: 0 };

/// Steps of an epoch in these tests.
const STEPS: u32 = 5;

fn train(lr: f64, epochs: u32) -> Train {
    Train {
        epochs,
        max_steps: None,
        batch: 8,
        lr,
        momentum: 0.9,
        weight_decay: 0.0,
        lr_base_batch: None,
        optimizer: Optimizer::Sgd,
        lars_trust: 0.001,
    }
}

/// Without warm-up, over 8 epochs.
fn rule(lr: f64, decay: Decay) -> LearningRate {
    LearningRate::new(&train(lr, 8), &Schedule::from(decay), STEPS)
}

fn plateau(min_delta: u64, patience: u32, max_drops: u32) -> LearningRate {
    rule(0.01, Decay::Plateau { min_delta, patience, divide_by: 10.0, max_drops })
}

/// The rates of the run's first steps, before any evaluation.
fn rates(rule: &LearningRate, steps: u32) -> Vec<f64> {
    let state = ScheduleState::default();
    let at = |n| Position { epoch: n / STEPS, step: n % STEPS };
    (0..steps).map(|n| rule.rate(&state, at(n))).collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-14 * expected.abs(), "{got} instead of {expected}");
    }
}

/// Feeds `history` and checks what each evaluation meant; returns the last state.
fn check(rule: &LearningRate, history: &[(u64, Observation)]) -> ScheduleState {
    let mut state = ScheduleState::default();
    for (number, (errors, expected)) in history.iter().enumerate() {
        let (next, observation) = rule.observe(&state, *errors);
        assert_eq!(observation, *expected, "evaluation {number} with {errors} errors");
        state = next;
    }
    state
}

#[test]
fn a_constant_rate_ignores_position_and_history() {
    let rule = rule(0.01, Decay::Constant);
    let state = check(&rule, &[(9, Improved), (9, Stalled { evaluations: 1 }), (8, Improved)]);
    assert_eq!(rule.rate(&state, Position { epoch: 80, step: 7 }), 0.01);
}

#[test]
fn listed_drops_take_effect_at_the_first_step_of_their_epoch() {
    let drops = vec![
        RateDrop { epoch: 2, factor: 0.5 },
        RateDrop { epoch: 3, factor: 0.5 },
        RateDrop { epoch: 7, factor: 2.0 },
    ];
    let rule = rule(1.0, Decay::Steps { drops });
    let state = ScheduleState::default();
    let expected = [1.0, 1.0, 0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5];
    for (epoch, expected) in (0..).zip(expected) {
        for step in [0, 1, 999] {
            assert_eq!(rule.rate(&state, Position { epoch, step }), expected, "epoch {epoch}");
        }
    }
}

#[test]
fn the_papers_schedule_drops_three_times_by_ten_and_ends_when_a_fourth_is_due() {
    let rule = plateau(1, 2, 3);
    let mut state = ScheduleState::default();
    let mut rates = vec![rule.rate(&state, START)];
    let mut evaluations = 0;
    while !state.done {
        evaluations += 1;
        let (next, observation) = rule.observe(&state, 400);
        if let Dropped { .. } = observation {
            rates.push(rule.rate(&next, START));
        }
        state = next;
    }
    assert_eq!(rates, [0.01, 0.001, 0.0001, 0.00001]);
    // One that sets the best, then four times two without improvement.
    assert_eq!(evaluations, 1 + 4 * 2);
}

#[test]
fn an_improvement_needs_at_least_min_delta_errors_fewer_than_the_best() {
    check(
        &plateau(10, 9, 3),
        &[
            (1000, Improved),
            (991, Stalled { evaluations: 1 }),
            (990, Improved),
            (981, Stalled { evaluations: 1 }),
            (2000, Stalled { evaluations: 2 }),
            (980, Improved),
        ],
    );
}

#[test]
fn slow_progress_is_measured_against_the_best_and_not_against_the_last() {
    // Each is 6 fewer than the one before; only every second is 10 fewer than the best.
    check(
        &plateau(10, 9, 3),
        &[
            (100, Improved),
            (94, Stalled { evaluations: 1 }),
            (88, Improved),
            (82, Stalled { evaluations: 1 }),
            (76, Improved),
        ],
    );
}

#[test]
fn a_drop_resets_the_patience_and_keeps_the_best() {
    let state = check(
        &plateau(1, 2, 3),
        &[
            (100, Improved),
            (100, Stalled { evaluations: 1 }),
            (101, Dropped { drops: 1 }),
            (100, Stalled { evaluations: 1 }),
            (99, Improved),
            (99, Stalled { evaluations: 1 }),
            (99, Dropped { drops: 2 }),
        ],
    );
    let expected = ScheduleState { drops: 2, best_errors: Some(99), ..ScheduleState::default() };
    assert_eq!(state, expected);
}

#[test]
fn patience_of_one_drops_at_the_first_evaluation_without_improvement() {
    check(&plateau(1, 1, 1), &[(5, Improved), (5, Dropped { drops: 1 }), (5, Done)]);
}

#[test]
fn a_schedule_that_has_ended_stays_ended_even_if_errors_fall() {
    let state = check(&plateau(1, 1, 0), &[(5, Improved), (5, Done), (0, Done), (0, Done)]);
    assert_eq!(state.best_errors, Some(5));
    assert!(state.done);
}

#[test]
fn the_largest_count_of_errors_does_not_overflow() {
    check(
        &plateau(u64::MAX, 3, 1),
        &[(u64::MAX, Improved), (0, Improved), (u64::MAX, Stalled { evaluations: 1 })],
    );
}

#[test]
fn the_state_survives_its_json_form() {
    let manual = vec![AppliedDrop { number: 1, divide_by: 10.0, at: START }];
    let state = ScheduleState { drops: 2, best_errors: Some(7), stalled: 1, done: false, manual };
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<ScheduleState>(&text).unwrap(), state);
}

#[test]
fn a_polynomial_falls_to_its_end_rate_at_the_end_of_the_run() {
    let power = |power, end_lr| rates(&rule(0.4, Decay::Polynomial { power, end_lr }), 41);
    let linear = power(1.0, 0.0);
    assert_close(&linear, &(0..41).map(|t| 0.4 * (1.0 - f64::from(t) / 40.0)).collect::<Vec<_>>());
    // The values of You et al.: power 2, down to 0.
    let square = power(2.0, 0.0);
    assert_close(&[square[0], square[10], square[20], square[30]], &[0.4, 0.225, 0.1, 0.025]);
    assert_eq!(square[40], 0.0);
    let root = power(0.5, 0.1);
    assert_close(&[root[0], root[30], root[40]], &[0.4, 0.1 + 0.3 * 0.5, 0.1]);
}

#[test]
fn a_cosine_is_half_way_at_half_the_run_and_at_its_end_rate_at_the_end() {
    let rates = rates(&rule(0.4, Decay::Cosine { end_lr: 0.1 }), 41);
    let third = 0.1 + 0.15 * (1.0 + (std::f64::consts::PI / 4.0).cos());
    assert_close(&[rates[0], rates[10], rates[20], rates[40]], &[0.4, third, 0.25, 0.1]);
    assert!(rates.windows(2).all(|pair| pair[1] < pair[0]));
}

#[test]
fn a_run_that_max_steps_ends_early_has_its_curve_end_there() {
    let train = Train { max_steps: Some(20), ..train(0.4, 8) };
    let short = LearningRate::new(&train, &Decay::Cosine { end_lr: 0.0 }.into(), STEPS);
    assert_close(&rates(&short, 21)[10..11], &[0.2]);
    assert_eq!(rates(&short, 21)[20], 0.0);
}

#[test]
fn a_position_past_the_end_keeps_the_end_rate() {
    for decay in [Decay::Cosine { end_lr: 0.1 }, Decay::Polynomial { power: 2.0, end_lr: 0.1 }] {
        let late = Position { epoch: 9, step: 3 };
        assert_close(&[rule(0.4, decay).rate(&ScheduleState::default(), late)], &[0.1]);
    }
}

#[test]
fn warm_up_grows_by_equal_amounts_up_to_the_whole_rate() {
    let schedule =
        Schedule { warmup_steps: 4, warmup_from: 0.2, ..Schedule::from(Decay::Constant) };
    let warm = LearningRate::new(&train(1.0, 8), &schedule, STEPS);
    assert_close(&rates(&warm, 7), &[0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]);
}

#[test]
fn warm_up_multiplies_what_does_not_fall_by_itself_and_leaves_it_alone_afterwards() {
    let drops = vec![RateDrop { epoch: 1, factor: 0.5 }, RateDrop { epoch: 3, factor: 0.5 }];
    for decay in [
        Decay::Constant,
        Decay::Steps { drops },
        Decay::Plateau { min_delta: 1, patience: 1, divide_by: 10.0, max_drops: 3 },
    ] {
        let schedule =
            Schedule { warmup_epochs: 2, warmup_from: 0.1, ..Schedule::from(decay.clone()) };
        let warm = rates(&LearningRate::new(&train(0.4, 8), &schedule, STEPS), 40);
        let cold = rates(&rule(0.4, decay), 40);
        for (step, (warm, cold)) in warm.iter().zip(&cold).enumerate() {
            let part = if step < 10 { 0.1 + 0.9 * step as f64 / 10.0 } else { 1.0 };
            assert_close(&[*warm], &[cold * part]);
        }
    }
}

#[test]
fn a_curve_that_falls_over_the_run_begins_to_when_the_warm_up_is_over() {
    for decay in [Decay::Polynomial { power: 2.0, end_lr: 0.01 }, Decay::Cosine { end_lr: 0.01 }] {
        let schedule =
            Schedule { warmup_epochs: 2, warmup_from: 0.1, ..Schedule::from(decay.clone()) };
        let warm = rates(&LearningRate::new(&train(0.4, 8), &schedule, STEPS), 41);
        let rising: Vec<f64> = (0..10).map(|step| 0.4 * (0.1 + 0.09 * f64::from(step))).collect();
        assert_close(&warm[..10], &rising);
        let six_epochs = LearningRate::new(&train(0.4, 6), &decay.into(), STEPS);
        assert_close(&warm[10..], &rates(&six_epochs, 31));
        assert_eq!((warm[10], warm[40]), (0.4, 0.01));
    }
}

#[test]
fn a_warm_up_that_outlasts_the_run_never_falls() {
    let schedule =
        Schedule { warmup_epochs: 9, warmup_from: 0.0, ..Decay::Cosine { end_lr: 0.0 }.into() };
    let warm = rates(&LearningRate::new(&train(1.0, 8), &schedule, STEPS), 40);
    assert!(warm.is_sorted() && warm[39] < 1.0);
}

#[test]
fn the_rate_scales_with_the_batch_over_its_base() {
    let scaled = Train { batch: 1024, lr_base_batch: Some(256), ..train(0.1, 8) };
    assert_eq!(scaled.peak_rate(), 0.4);
    let rule = LearningRate::new(&scaled, &Decay::Constant.into(), STEPS);
    assert_eq!(rates(&rule, 1), [0.4]);
    assert_eq!(train(0.1, 8).peak_rate(), 0.1);
}

#[test]
fn a_drop_of_the_plateau_works_on_a_rate_that_still_warms_up() {
    let decay = Decay::Plateau { min_delta: 1, patience: 1, divide_by: 10.0, max_drops: 3 };
    let schedule = Schedule { warmup_epochs: 2, warmup_from: 0.0, ..Schedule::from(decay) };
    let warm = LearningRate::new(&train(1.0, 8), &schedule, STEPS);
    let state = ScheduleState { drops: 1, ..ScheduleState::default() };
    assert_close(&[warm.rate(&state, Position { epoch: 1, step: 0 })], &[0.05]);
}

fn order(number: u32, at: Option<Position>) -> ManualDrop {
    ManualDrop { number, divide_by: 10.0, at }
}

/// Numbers of the orders that are due.
fn due(state: &ScheduleState, known: &[ManualDrop], agreed: u32, at: Position) -> Vec<u32> {
    state.due(known, agreed, at).iter().map(|drop| drop.number).collect()
}

#[test]
fn a_drop_by_hand_is_due_once_all_ranks_know_it_and_only_once() {
    let known = [order(2, None), order(1, None), order(3, None)];
    let at = Position { epoch: 1, step: 4 };
    let mut state = ScheduleState::default();
    assert_eq!(due(&state, &known, 0, at), [] as [u32; 0]);
    assert_eq!(due(&state, &known, 2, at), [1, 2]);
    for drop in state.due(&known, 2, at) {
        state = rule(1.0, Decay::Constant).drop_by_hand(&state, drop);
    }
    assert_eq!(due(&state, &known, 2, at), [] as [u32; 0]);
    assert_eq!(due(&state, &known, 3, at), [3]);
    assert_close(&[rule(1.0, Decay::Constant).rate(&state, at)], &[0.01]);
}

#[test]
fn a_drop_with_a_recorded_position_waits_for_it_whatever_ranks_know() {
    let recorded = Position { epoch: 1, step: 2 };
    let (known, state) = ([order(1, Some(recorded))], ScheduleState::default());
    assert_eq!(due(&state, &known, 9, Position { epoch: 1, step: 1 }), [] as [u32; 0]);
    assert_eq!(due(&state, &known, 0, recorded), [1]);
}

#[test]
fn drops_by_hand_divide_the_rate_of_every_kind_even_while_it_warms_up() {
    let schedule =
        Schedule { warmup_steps: 4, warmup_from: 0.5, ..Decay::Cosine { end_lr: 0.0 }.into() };
    let rule = LearningRate::new(&train(1.0, 8), &schedule, STEPS);
    let drop = AppliedDrop { number: 1, divide_by: 4.0, at: START };
    let state = rule.drop_by_hand(&ScheduleState::default(), drop);
    for step in 0..4 {
        let at = Position { epoch: 0, step };
        let before = rule.rate(&ScheduleState::default(), at);
        assert_close(&[rule.rate(&state, at)], &[before / 4.0]);
    }
}

#[test]
fn a_drop_by_hand_starts_the_patience_anew_and_counts_as_one_of_the_plateaus_drops() {
    let rule = plateau(1, 2, 2);
    let state = check(&rule, &[(9, Improved), (9, Stalled { evaluations: 1 })]);
    let state = rule.drop_by_hand(&state, AppliedDrop { number: 1, divide_by: 10.0, at: START });
    let (state, seen) = rule.observe(&state, 9);
    assert_eq!(seen, Stalled { evaluations: 1 });
    let (state, seen) = rule.observe(&state, 9);
    assert_eq!(seen, Dropped { drops: 1 });
    assert_close(&[rule.rate(&state, START)], &[0.0001]);
    let (state, _) = rule.observe(&state, 9);
    assert_eq!(rule.observe(&state, 9).1, Done);
}
