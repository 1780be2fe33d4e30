//! Whole jobs in one process: the real engine, service and ledger over real gRPC and a real store,
//! with workers that follow a script.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use convoy_common::checkpoint::Search;
use convoy_common::exit;
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::pb::{self, FinishCause};
use convoy_common::schedule::AppliedDrop;
use convoy_coordinator::ledger::{self, Fencing, Ledger as _, Origin};
use convoy_coordinator::machine::Ending;
use pb::coordinator_message::Kind as Out;
use pb::operate_request::What;
use support::{Place, SOON, Server, Worker, hello, layout, training};

const END: Position = Position { epoch: 2, step: 0 };

fn at(epoch: u32, step: u32) -> Position {
    Position { epoch, step }
}

#[tokio::test]
async fn a_job_runs_from_the_first_worker_to_a_published_manifest() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    assert_eq!(a.assignment().manifest, "");
    let roster: Vec<&str> = a.assignment().roster.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(roster, ["a", "b"]);

    a.step(at(0, 1)).await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, at(1, 0), 1.0).await;
        worker.checkpoint(&place, END, 2.0).await;
        worker.finish(END, FinishCause::Completed).await;
    }
    assert_eq!(a.dismissed().await, u32::from(exit::OK));
    assert_eq!(b.dismissed().await, u32::from(exit::OK));
    assert!(a.order().await.is_none(), "the call is over");
    drop((a, b));
    let outcome = server.outcome().await;
    assert_eq!((outcome.kind, outcome.exit_code), (Ending::Completed, exit::OK));

    let Search { found, skipped } = place.checkpoints().newest_good(Lineage(1)).await.unwrap();
    let (path, manifest) = found.expect("a checkpoint");
    assert!(skipped.is_empty());
    assert_eq!(path, "checkpoints/1/000000000006/manifest.json");
    assert_eq!(manifest.shared.position, END);
    assert_eq!(manifest.tensors, layout().tensors());
    assert_eq!(manifest.parts.len(), 2);
    assert_eq!(outcome.last_checkpoint.unwrap().path, path);
}

#[tokio::test]
async fn a_job_goes_on_where_the_last_one_stopped() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    server.client().await.stop(pb::StopRequest { reason: "enough".to_owned() }).await.unwrap();
    for worker in [&mut a, &mut b] {
        match worker.order().await {
            Some(Out::StopAfterStep(stop)) => {
                assert!(stop.checkpoint);
                assert_eq!(stop.reason, "enough");
            }
            order => panic!("{order:?}"),
        }
        worker.checkpoint(&place, at(0, 2), 1.5).await;
        worker.finish(at(0, 2), FinishCause::Stopped).await;
    }
    assert_eq!(a.dismissed().await, u32::from(exit::STOPPED));
    drop((a, b));
    assert_eq!(server.outcome().await.exit_code, exit::STOPPED);
    assert!(place.checkpoints().has_ended(Term(1)).await.unwrap());

    // Another number of workers may go on.
    let server = Server::start(place.config(&["cluster.workers=1"]), Origin::Newest).await;
    let (_, manifest) = place.checkpoints().named("2").await.unwrap();
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare(&manifest.state_digest).await;
    only.begin().await;
    let assignment = only.assignment();
    assert_eq!(assignment.position, Some(at(0, 2).into()));
    assert_eq!(assignment.manifest, "checkpoints/1/000000000002/manifest.json");
    assert_eq!(assignment.generation.unwrap().term, 2);
}

#[tokio::test]
async fn workers_are_waited_for_after_a_coordinator_that_did_not_say_that_it_ended() {
    let place = Place::new().await;
    let opened = || async {
        let run = ledger::open(place.config(&[]), Origin::Newest, Fencing::Required).await.unwrap();
        run.take_over("127.0.0.1:7171").await.unwrap()
    };
    assert!(!opened().await.plan.succeeds, "there was nobody before");
    let mut second = opened().await;
    assert!(second.plan.succeeds);
    second.ledger.record_end("stopped").await.unwrap();
    assert!(!opened().await.plan.succeeds);
    // That of an earlier one says nothing of the last.
    assert!(opened().await.plan.succeeds);
}

#[tokio::test]
async fn a_named_checkpoint_begins_a_lineage_of_its_own() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (a, b) = training(&server.address, "start").await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, at(0, 2), 1.0).await;
        worker.checkpoint(&place, END, 2.0).await;
        worker.finish(END, FinishCause::Completed).await;
    }
    drop((a, b));
    assert_eq!(server.outcome().await.exit_code, exit::OK);

    let origin = Origin::Checkpoint("1/2".to_owned());
    let server = Server::start(place.config(&["cluster.workers=1"]), origin).await;
    let (_, manifest) = place.checkpoints().named("1/2").await.unwrap();
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare(&manifest.state_digest).await;
    only.begin().await;
    assert_eq!(only.assignment().lineage, 2);
    assert_eq!(only.assignment().position, Some(at(0, 2).into()));
    only.checkpoint(&place, END, 3.0).await;
    only.finish(END, FinishCause::Completed).await;
    assert_eq!(only.dismissed().await, u32::from(exit::OK));
    drop(only);
    let outcome = server.outcome().await;
    let path = outcome.last_checkpoint.unwrap().path;
    assert_eq!(path, "checkpoints/2/000000000006/manifest.json");
    let parent = place.checkpoints().read(&path).await.unwrap().parent.unwrap();
    assert_eq!(parent.checkpoint, "checkpoints/1/000000000002/manifest.json");
    assert!(place.checkpoints().named("1/6").await.is_ok(), "nothing of the first is lost");
}

#[tokio::test]
async fn a_damaged_newest_checkpoint_is_skipped_and_its_manifest_never_met_again() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (a, b) = training(&server.address, "start").await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, at(0, 2), 1.0).await;
        worker.checkpoint(&place, END, 2.0).await;
        worker.finish(END, FinishCause::Completed).await;
    }
    drop((a, b));
    assert_eq!(server.outcome().await.exit_code, exit::OK);
    let folder = place.path().join("run/checkpoints/1/000000000006");
    let part = std::fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .find(|it| it.extension().is_some_and(|it| it == "safetensors"))
        .unwrap();
    std::fs::remove_file(part).unwrap();

    let server = Server::start(place.config(&["cluster.workers=1"]), Origin::Newest).await;
    let (_, manifest) = place.checkpoints().named("1/2").await.unwrap();
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare(&manifest.state_digest).await;
    only.begin().await;
    assert_eq!(only.assignment().manifest, "checkpoints/1/000000000002/manifest.json");
    assert_eq!(only.assignment().lineage, 2);
}

#[tokio::test]
async fn a_lost_worker_is_named_and_the_other_goes_on_with_what_it_holds() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, b) = training(&server.address, "start").await;
    lose(b).await;
    let reason = a.ended().await;
    assert!(reason.starts_with("worker b was lost: its connection"), "{reason}");
    a.leave(at(0, 1), "b").await;
    // As one that keeps its state.
    a.prepare("").await;
    a.begin().await;
    let assignment = a.assignment();
    assert_eq!(assignment.generation.unwrap().counter, 2);
    assert_eq!(assignment.resume(), pb::Resume::Keep);
    assert_eq!(assignment.position, Some(at(0, 1).into()));
    assert_eq!(assignment.roster.len(), 1);
    // Another one may join, and gets the state from it.
    let mut c = Worker::join(&server.address, "c").await;
    assert!(matches!(a.order().await, Some(Out::Regroup(_))));
    a.leave(at(0, 2), "").await;
    c.prepare("some").await;
    assert_eq!(c.assignment().resume(), pb::Resume::State);
    assert_eq!(c.assignment().peer.as_ref().unwrap().name, "a");
}

#[tokio::test]
async fn a_job_whose_last_worker_is_lost_ends() {
    let place = Place::new().await;
    let server = Server::start(place.config(&["cluster.join_timeout=3s"]), Origin::Newest).await;
    let (a, b) = training(&server.address, "start").await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, at(0, 1), 1.0).await;
    }
    // The manifest is there before its workers are gone.
    let published = async {
        while server
            .client()
            .await
            .status(pb::StatusRequest {})
            .await
            .unwrap()
            .get_ref()
            .last_checkpoint
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, published).await.unwrap();
    lose(b).await;
    lose(a).await;
    let outcome = server.outcome().await;
    assert_eq!(outcome.exit_code, exit::WORKER_LOST);
    assert!(outcome.message.contains("nobody is left"), "{outcome:?}");
    assert_eq!(outcome.last_checkpoint.unwrap().path, "checkpoints/1/000000000001/manifest.json");
}

/// A worker whose process ends.
async fn lose(worker: Worker) {
    drop(worker);
}

#[tokio::test]
async fn workers_that_do_not_fit_are_told_why() {
    let place = Place::new().await;
    let config = place.config(&["cluster.max_workers=2"]);
    let server = Server::start(config, Origin::Newest).await;
    let refused = |hello| async {
        let mut worker = Worker::call(&server.address, hello).await;
        match worker.order().await {
            Some(Out::Refused(it)) => {
                assert!(worker.order().await.is_none(), "the call is over");
                let passes =
                    it.reason.ends_with("in the job already") || it.reason.contains("full");
                let code = if passes { exit::UNAVAILABLE } else { exit::BAD_INPUT };
                assert_eq!(it.exit_code, u32::from(code), "{}", it.reason);
                (it.reason, it.hint)
            }
            order => panic!("{order:?}"),
        }
    };
    let (reason, hint) = refused(pb::Hello { version: "0.0.1".to_owned(), ..hello("a") }).await;
    assert!(reason.contains("0.0.1") && hint.contains("version"), "{reason}: {hint}");

    let expect_config = "ff".to_owned();
    let (reason, hint) = refused(pb::Hello { expect_config, ..hello("a") }).await;
    assert!(reason.contains("ff"), "{reason}");
    assert!(hint.contains(&place.config(&["cluster.max_workers=2"]).digest()), "{hint}");

    let _a = Worker::join(&server.address, "a").await;
    let (reason, _) = refused(hello("a")).await;
    assert_eq!(reason, "a worker called a is in the job already");
    let _b = Worker::join(&server.address, "b").await;
    let (reason, _) = refused(hello("c")).await;
    assert_eq!(reason, "the job is full: it has its 2 workers");
}

#[tokio::test]
async fn a_call_that_breaks_the_protocol_is_over() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    b.say(pb::worker_message::Kind::Hello(hello("b"))).await;
    assert_eq!(a.ended().await, "worker b was lost: it broke the protocol: a second hello");
    assert!(b.order().await.is_none());
}

#[tokio::test]
async fn status_tells_who_is_there_and_how_it_goes() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let status = server.client().await.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.phase.as_str(), status.workers_wanted), ("waiting", 2));

    let (a, _b) = training(&server.address, "start").await;
    a.step(at(0, 1)).await;
    let asked = async {
        loop {
            let reply = server.client().await.status(pb::StatusRequest {}).await.unwrap();
            if reply.get_ref().last_step.is_some() {
                break reply.into_inner();
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(SOON, asked).await.unwrap();
    assert_eq!(status.phase, "training");
    assert_eq!(status.position, Some(at(0, 1).into()));
    assert_eq!(status.images_per_second, 16.0);
    assert!(status.eta_seconds > 0.0);
    let ranks: Vec<(&str, i32)> =
        status.workers.iter().map(|it| (it.name.as_str(), it.rank)).collect();
    assert_eq!(ranks, [("a", 0), ("b", 1)]);
}

#[tokio::test]
async fn a_stop_before_training_ends_the_job() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let mut a = Worker::join(&server.address, "a").await;
    server.client().await.stop(pb::StopRequest::default()).await.unwrap();
    assert_eq!(a.dismissed().await, u32::from(exit::STOPPED));
    drop(a);
    assert_eq!(server.outcome().await.exit_code, exit::STOPPED);
}

#[tokio::test]
async fn workers_that_hold_different_states_end_the_job_at_the_last_agreed_checkpoint() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, at(0, 2), 1.0).await;
    }
    a.checkpoint(&place, at(1, 0), 2.0).await;
    b.checkpoint(&place, at(1, 0), 3.0).await;
    assert_eq!(a.dismissed().await, u32::from(exit::DIVERGED));
    assert_eq!(b.dismissed().await, u32::from(exit::DIVERGED));
    drop((a, b));
    let outcome = server.outcome().await;
    assert_eq!(outcome.exit_code, exit::DIVERGED);
    let Search { found, .. } = place.checkpoints().newest_good(Lineage(1)).await.unwrap();
    assert_eq!(found.expect("the agreed one").1.shared.position, at(0, 2));
    assert!(place.checkpoints().named("3").await.is_err(), "the other one does not exist");
}

#[tokio::test]
async fn parts_that_are_not_the_state_that_their_workers_held_make_no_checkpoint() {
    let place = Place::new().await;
    let server = Server::start(place.config(&["cluster.workers=1"]), Origin::Newest).await;
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare("start").await;
    only.begin().await;
    only.checkpoint_as(&place, END, 1.0, "of another state".to_owned()).await;
    only.finish(END, FinishCause::Completed).await;
    assert_eq!(only.dismissed().await, u32::from(exit::UNAVAILABLE));
    drop(only);
    let message = server.outcome().await.message;
    assert!(message.contains("the workers one of of another state"), "{message}");
}

#[tokio::test]
async fn a_worker_of_another_kind_is_refused_now_and_when_the_run_goes_on() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (a, b) = training(&server.address, "start").await;
    for worker in [&a, &b] {
        worker.checkpoint(&place, END, 2.0).await;
        worker.finish(END, FinishCause::Completed).await;
    }
    drop((a, b));
    assert_eq!(server.outcome().await.exit_code, exit::OK);

    for (allowed, refused) in [("false", true), ("true", false)] {
        let allow = format!("cluster.allow_mixed_numerics={allowed}");
        let config = place.config(&["cluster.workers=1", &allow]);
        let server = Server::start(config, Origin::Newest).await;
        let mut odd = Worker::call(&server.address, hello("odd")).await;
        assert!(matches!(odd.order().await, Some(Out::Welcome(_))));
        odd.compute("f1").await;
        match odd.order().await {
            Some(Out::Refused(it)) if refused => {
                assert!(it.reason.contains("f1") && it.reason.contains("f0"), "{}", it.reason);
                assert!(it.hint.contains("allow_mixed_numerics"), "{}", it.hint);
            }
            Some(Out::Assignment(_)) if !refused => {}
            order => panic!("{order:?}"),
        }
        // The next one need not wait for workers of this one.
        server.client().await.stop(pb::StopRequest::default()).await.unwrap();
        drop(odd);
        server.outcome().await;
    }
}

/// Asks for a drop of the rate and waits for the answer at most that long.
async fn drop_rate(
    server: &Server,
    patience_seconds: f64,
) -> Result<pb::DropRateReply, tonic::Status> {
    let request =
        pb::DropRateRequest { divide_by: 10.0, reason: "it stalls".to_owned(), patience_seconds };
    server.client().await.drop_rate(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_drop_of_the_rate_is_logged_told_and_answered_with_the_step_of_its_effect() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    let asked = drop_rate(&server, 30.0);
    let obeyed = async {
        for worker in [&mut a, &mut b] {
            let directive = worker.directive().await;
            assert_eq!((directive.number, directive.divide_by, directive.at), (1, 10.0, None));
            let logged = place.checkpoints().overrides(Lineage(1)).await.unwrap();
            assert_eq!(logged[0].record.reason, "it stalls");
            worker.knows(1).await;
        }
        a.dropped(1, at(0, 2)).await;
    };
    let (reply, ()) = tokio::join!(asked, obeyed);
    let drop = reply.unwrap().drop.unwrap();
    assert_eq!((drop.number, drop.stage.as_str()), (1, "effective"));
    assert_eq!(drop.position, Some(at(0, 2).into()));
    let log = place.checkpoints().overrides(Lineage(1)).await.unwrap();
    assert_eq!(log[0].at, Some(at(0, 2)));
}

#[tokio::test]
async fn a_drop_that_a_worker_does_not_take_names_it_when_the_deadline_passes() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, _b) = training(&server.address, "start").await;
    let asked = drop_rate(&server, 2.0);
    let obeyed = async {
        a.directive().await;
        a.knows(1).await;
    };
    let (reply, ()) = tokio::join!(asked, obeyed);
    let drop = reply.unwrap().drop.unwrap();
    assert_eq!((drop.stage.as_str(), drop.position), ("waiting", None));
    assert_eq!(drop.waiting_for, ["b"]);
}

#[tokio::test]
async fn a_drop_that_is_none_or_comes_too_late_is_refused() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, _b) = training(&server.address, "start").await;
    for divide_by in [1.0, -2.0, f64::NAN, f64::INFINITY] {
        let request = pb::DropRateRequest { divide_by, ..Default::default() };
        let status = server.client().await.drop_rate(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{divide_by}");
    }
    server.client().await.stop(pb::StopRequest::default()).await.unwrap();
    assert!(matches!(a.order().await, Some(Out::StopAfterStep(_))));
    let status = drop_rate(&server, 5.0).await.unwrap_err();
    assert_eq!(status.message(), "the job is ending");
    assert!(place.checkpoints().overrides(Lineage(1)).await.unwrap().is_empty());
}

/// A job of one worker that ends at `end` with a checkpoint there; `drop` is one by hand before.
async fn short(
    place: &Place,
    origin: Origin,
    digest: &str,
    end: Position,
    drop: Option<Position>,
) -> pb::Assignment {
    let server = Server::start(place.config(&["cluster.workers=1"]), origin).await;
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare(digest).await;
    only.begin().await;
    let mut manual = Vec::new();
    if let Some(at) = drop {
        let asked = drop_rate(&server, 30.0);
        let obeyed = async {
            let directive = only.directive().await;
            only.dropped(directive.number, at).await;
            directive
        };
        let (reply, directive) = tokio::join!(asked, obeyed);
        assert_eq!(reply.unwrap().drop.unwrap().stage, "effective");
        manual.push(AppliedDrop { number: directive.number, divide_by: 10.0, at });
    }
    server.client().await.stop(pb::StopRequest::default()).await.unwrap();
    assert!(matches!(only.order().await, Some(Out::StopAfterStep(_))));
    // A state holds what came before it.
    manual.retain(|it| it.at <= end);
    only.checkpoint_after(place, end, 1.0, manual).await;
    only.finish(end, FinishCause::Stopped).await;
    only.dismissed().await;
    let assignment = only.assignment().clone();
    std::mem::drop(only);
    server.outcome().await;
    assignment
}

/// Digest of the state at that step.
async fn digest(place: &Place, name: &str) -> String {
    place.checkpoints().named(name).await.unwrap().1.state_digest
}

#[tokio::test]
async fn what_took_effect_after_the_checkpoint_is_repeated_at_its_position_when_the_run_goes_on() {
    let place = Place::new().await;
    // The workers were lost after the drop: the checkpoint is older than it.
    short(&place, Origin::Newest, "start", at(0, 1), Some(at(0, 2))).await;
    let state = digest(&place, "1").await;
    let assignment = short(&place, Origin::Newest, &state, at(0, 2), None).await;
    let at = Some(at(0, 2).into());
    assert_eq!(assignment.directives, [pb::Directive { number: 1, divide_by: 10.0, at }]);
}

#[tokio::test]
async fn going_back_on_purpose_keeps_the_drops_before_the_checkpoint_and_leaves_the_later_ones() {
    let place = Place::new().await;
    short(&place, Origin::Newest, "start", at(0, 2), Some(at(0, 1))).await;
    let state = digest(&place, "2").await;
    short(&place, Origin::Newest, &state, at(1, 1), Some(at(1, 0))).await;
    assert_eq!(place.checkpoints().overrides(Lineage(1)).await.unwrap().len(), 2);

    let origin = Origin::Checkpoint("1/2".to_owned());
    let assignment = short(&place, origin, &state, at(1, 0), None).await;
    assert_eq!((assignment.lineage, assignment.directives), (2, vec![]));
    let log = place.checkpoints().overrides(Lineage(2)).await.unwrap();
    let kept: Vec<_> = log.iter().map(|it| (it.record.number, it.at)).collect();
    assert_eq!(kept, [(1, Some(at(0, 1)))]);
}

#[tokio::test]
async fn a_replay_hands_out_the_log_of_the_other_run_and_refuses_other_settings() {
    let place = Place::new().await;
    short(&place, Origin::Newest, "start", at(0, 2), Some(at(0, 1))).await;
    let url = place.path().join("run").display().to_string();
    let new_url = format!("run.url={}", place.path().join("again").display());
    let replay = || Origin::Replay(url.clone());

    let other = place.config(&[&new_url, "train.lr=0.5"]);
    let error = ledger::open(other, replay(), Fencing::Required).await.unwrap_err();
    assert!(error.to_string().contains("train.lr: was 0.01, now 0.5"), "{error}");

    let config = place.config(&[&new_url, "cluster.workers=1"]);
    let server = Server::start(config.clone(), replay()).await;
    let mut only = Worker::join(&server.address, "only").await;
    only.prepare("start").await;
    let recorded = Some(at(0, 1).into());
    let expected = pb::Directive { number: 1, divide_by: 10.0, at: recorded };
    assert_eq!(only.assignment().directives, [expected]);

    let error = ledger::open(config, replay(), Fencing::Required).await.unwrap_err();
    assert!(error.to_string().contains("a run exists already"), "{error}");
}

#[tokio::test]
async fn a_checkpoint_asked_for_over_the_wire_is_answered_with_its_name_and_a_worker_is_drained() {
    let place = Place::new().await;
    let server = Server::start(place.config(&[]), Origin::Newest).await;
    let (mut a, mut b) = training(&server.address, "start").await;
    a.step(at(0, 1)).await;
    let operate = |what, patience_seconds| {
        let request = pb::OperateRequest { patience_seconds, what: Some(what) };
        let server = &server;
        async move { server.client().await.operate(request).await.map(tonic::Response::into_inner) }
    };
    let asked = operate(What::Checkpoint(pb::CheckpointNow {}), 30.0);
    let obeyed = async {
        for worker in [&mut a, &mut b] {
            assert!(matches!(worker.order().await, Some(Out::TakeCheckpoint(_))));
            worker.checkpoint(&place, at(0, 2), 1.0).await;
        }
    };
    let (reply, ()) = tokio::join!(asked, obeyed);
    let reply = reply.unwrap();
    assert!(reply.done);
    assert_eq!(reply.checkpoint, "checkpoints/1/000000000002/manifest.json");

    let refused = operate(What::Resume(pb::ResumeJob {}), 1.0).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let drain = pb::DrainWorker { name: "b".to_owned(), grace_seconds: 0.0 };
    let late = operate(What::Drain(drain), 0.1).await.unwrap();
    assert!(!late.done && late.detail.contains("training"), "{late:?}");
    for worker in [&mut a, &mut b] {
        assert!(matches!(worker.order().await, Some(Out::Regroup(_))));
        worker.leave(at(0, 3), "").await;
    }
    assert_eq!(b.dismissed().await, u32::from(exit::OK));
}
