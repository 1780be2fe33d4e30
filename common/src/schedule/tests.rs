use super::Observation::{Done, Dropped, Improved, Stalled};
use super::*;
use crate::config::{RateDrop, Schedule};

const START: Position = Position { epoch: 0, step: 0 };

fn plateau(min_delta: u64, patience: u32, max_drops: u32) -> LearningRate {
    LearningRate::new(0.01, &Schedule::Plateau { min_delta, patience, divide_by: 10.0, max_drops })
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
    let rule = LearningRate::new(0.01, &Schedule::Constant);
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
    let rule = LearningRate::new(1.0, &Schedule::Steps { drops });
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
    assert_eq!(state, ScheduleState { drops: 2, best_errors: Some(99), stalled: 0, done: false });
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
    let state = ScheduleState { drops: 2, best_errors: Some(7), stalled: 1, done: false };
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<ScheduleState>(&text).unwrap(), state);
}
