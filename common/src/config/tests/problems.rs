//! What is refused, and in what words.

use super::*;

#[test]
fn all_problems_of_a_learning_rate_are_told_at_once() {
    let text = format!(
        "{SMALLEST}[train]\nepochs = 3\nbatch = 1024\nlr = 0.1\nlr_base_batch = 256\n\
         [schedule]\nkind = \"cosine\"\nend_lr = 0.5\npower = 2\nwarmup_epochs = 4\n\
         warmup_steps = 9\nwarmup_from = 1.5\n"
    );
    assert_eq!(
        problems(&text, &[]),
        [
            "line 12 schedule.end_lr: must be at most the initial rate, 0.4, is 0.5",
            "line 13 schedule.power: has no meaning with kind = \"cosine\"",
            "line 14 schedule.warmup_epochs: must be at most train.epochs, 3, is 4",
            "line 15 schedule.warmup_steps: is given besides warmup_epochs",
            "line 16 schedule.warmup_from: must be 0 to 1, is 1.5",
        ]
    );
}

#[test]
fn a_warm_up_longer_than_the_run_is_refused() {
    let (what, _) = only(&["train.max_steps=5", "schedule.warmup_steps=6"]);
    assert_eq!(what, "schedule.warmup_steps: must be at most train.max_steps, 5, is 6");
}

#[test]
fn all_problems_are_told_at_once_each_with_its_line() {
    let text = "\
[run]
name = \"a/b\"
sed = 1

[data]
url = \"gs://bucket\"

[train]
batch = 0
lr = \"fast\"
momentum = 1

[schedule]
kind = \"steps\"
drops = [
  { epoch = 30, factor = 0.1 },
  { epoch = 30, factor = 0 },
  { epoch = 20, factor = 0.1 },
]

[optimiser]
x = 1
";
    assert_eq!(
        problems(text, &["train.epochs=many", "train.epoch=3", "x"]),
        [
            "line 2 run.name: cannot be \"a/b\"",
            "line 3 run.sed: no field has this name",
            "line 6 data.url: has the unknown scheme \"gs\"",
            "line 9 train.batch: must be at least 1, is 0",
            "line 10 train.lr: must be a number, is the text \"fast\"",
            "line 11 train.momentum: must be at least 0 and less than 1, is 1",
            "line 17 schedule.drops[1]: factor must be more than 0 and at most 1000, is 0",
            "line 18 schedule.drops[2]: epoch 20 does not come after the one before",
            "line 21 optimiser: no section has this name",
            "file run.url: is missing and has no default",
            "--set train.epoch: no field has this name",
            "--set : \"x\" has no =",
            "--set train.epochs: must be a whole number, is the text \"many\"",
        ]
    );
}

#[test]
fn the_text_of_an_error_names_file_line_field_and_way_out() {
    let error =
        resolve(&format!("{SMALLEST}[train]\nbacth = 1\n"), &["train.batch=0"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the config a.toml has 2 problems\n  \
         a.toml:6: train.bacth: no field has this name\n    \
         hint: did you mean train.batch?\n  \
         --set: train.batch: must be at least 1, is 0"
    );
}

#[test]
fn a_field_of_another_section_is_found_there() {
    let (what, hint) = only(&["train.microbatch=3"]);
    assert_eq!(what, "train.microbatch: no field has this name");
    assert_eq!(hint, "did you mean numerics.microbatch?");
    assert_eq!(only(&["lr=3"]).1, "did you mean train.lr?");
}

#[test]
fn impossible_values_are_refused() {
    for (override_, what) in [
        ("train.batch=-1", "train.batch: must be at least 1, is -1"),
        ("train.batch=1.5", "train.batch: must be a whole number, is 1.5"),
        (
            "train.batch=99999999999999999999",
            "train.batch: must be at most 1000000, is 99999999999999999999",
        ),
        (
            "numerics.microbatch=129",
            "numerics.microbatch: must be at most train.batch, 128, is 129",
        ),
        ("numerics.microbatch=0", "numerics.microbatch: must be at least 1, is 0"),
        ("model.dropout=1", "model.dropout: must be at least 0 and less than 1, is 1"),
        ("model.dropout=-0.1", "model.dropout: must be at least 0 and less than 1, is -0.1"),
        ("model.groups=3", "model.groups: must be at most 2, is 3"),
        ("model.init=kaimming", "model.init: must be \"gaussian\" or \"kaiming\", is \"kaimming\""),
        ("model.conv_bias=nan", "model.conv_bias: must be -1000 to 1000, is NaN"),
        ("data.colour_sigma=-1", "data.colour_sigma: must be at least 0 and at most 10, is -1"),
        (
            "data.shuffle=windows",
            "data.shuffle: must be \"auto\" or \"full\" or \"window\", is \"windows\"",
        ),
        ("data.shuffle_window=0", "data.shuffle_window: must be at least 1, is 0"),
        ("data.cache=", "data.cache: is empty"),
        ("data.cache=s3://bucket/cache", "data.cache: is a URL"),
        ("data.cache=~/cache", "data.cache: starts with ~"),
        ("data.cache_size=1B", "data.cache_size: must be 1KiB to 1048576GiB, is 1B"),
        ("data.read_timeout=0s", "data.read_timeout: must be 1ms to 1h, is 0s"),
        ("data.read_timeout=30", "data.read_timeout: must be a duration, is \"30\""),
        ("train.lr=0", "train.lr: must be more than 0 and at most 1000, is 0"),
        ("train.lr=inf", "train.lr: must be more than 0 and at most 1000, is inf"),
        ("train.lr=-1e-3", "train.lr: must be more than 0 and at most 1000, is -0.001"),
        ("train.momentum=1.0", "train.momentum: must be at least 0 and less than 1, is 1.0"),
        ("train.max_steps=0", "train.max_steps: must be at least 1, is 0"),
        ("run.seed=9223372036854775808", "run.seed: is too large, 9223372036854775808"),
        ("schedule.patience=0", "schedule.patience: must be at least 1, is 0"),
        ("schedule.min_delta=0", "schedule.min_delta: must be at least 1, is 0"),
        ("schedule.divide_by=1", "schedule.divide_by: must be more than 1 and at most 1000, is 1"),
        ("schedule.drops=[]", "schedule.drops: has no meaning with kind = \"plateau\""),
        ("evaluation.crops=5", "evaluation.crops: must be 1 or 10, is 5"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last: must be at least 1, is 0"),
        (
            "evaluation.every_epochs=0",
            "evaluation.every_epochs: must be at least 1 with schedule.kind = \"plateau\", is 0",
        ),
        ("cluster.workers=0", "cluster.workers: must be at least 1, is 0"),
        ("cluster.workers=1025", "cluster.workers: must be at most 1024, is 1025"),
        ("cluster.min_workers=0", "cluster.min_workers: must be at least 1, is 0"),
        ("cluster.straggler=kill", "cluster.straggler: must be \"warn\" or \"evict\", is \"kill\""),
        ("cluster.drain_grace=0s", "cluster.drain_grace: must be 1ms to 1day, is 0s"),
        ("cluster.min_workers=2", "cluster.min_workers: must be at most 1, is 2"),
        ("cluster.bind=7171", "cluster.bind: must be host:port, is \"7171\""),
        ("cluster.insecure=1", "cluster.insecure: must be true or false, is 1"),
        ("cluster.liveness_timeout=1s", "cluster.liveness_timeout: must exceed 1s, is 1s"),
        (
            "cluster.coordinator_timeout=2s",
            "cluster.coordinator_timeout: must exceed cluster.liveness_timeout, 3s, is 2s",
        ),
        (
            "cluster.ring_timeout=3s",
            "cluster.ring_timeout: must exceed cluster.liveness_timeout, 3s, is 3s",
        ),
        (
            "cluster.prepare_timeout=2s",
            "cluster.prepare_timeout: must exceed cluster.liveness_timeout, 3s, is 2s",
        ),
        ("cluster.join_timeout=30", "cluster.join_timeout: must be a duration, is \"30\""),
        ("cluster.ring_chunk=1KiB", "cluster.ring_chunk: must be 4KiB to 4MiB, is 1KiB"),
        ("cluster.ring_chunk=8MiB", "cluster.ring_chunk: must be 4KiB to 4MiB, is 8MiB"),
        ("cluster.ring_chunk=big", "cluster.ring_chunk: must be a size, is the text \"big\""),
        ("log.folder=", "log.folder: must name a folder"),
        ("run.url=", "run.url: is empty"),
    ] {
        assert_eq!(only(&[override_]).0, what, "{override_}");
    }
}

#[test]
fn whoever_may_be_evicted_is_first_given_the_time_in_which_a_dead_worker_is_noticed() {
    let (evict, limit) = ("cluster.straggler=evict", "cluster.straggler_limit=3s");
    let what = "cluster.straggler_limit: must exceed cluster.liveness_timeout, 3s, is 3s";
    assert_eq!(only(&[evict, limit]).0, what);
    let what = "cluster.max_workers: must be at least 4, or 0, is 2";
    assert_eq!(only(&["cluster.workers=4", "cluster.max_workers=2"]).0, what);
}

#[test]
fn rounding_on_the_ring_needs_the_fast_sum_and_blocks_the_canonical_one() {
    let (what, hint) = only(&["numerics.wire=bf16"]);
    assert_eq!(what, "numerics.wire: can be \"bf16\" only with numerics.reduction = \"fast\"");
    assert!(hint.contains("reduction = \"fast\""), "{hint}");
    let (what, _) = only(&["numerics.reduction=fast", "numerics.block=2"]);
    assert_eq!(what, "numerics.block: has no meaning with numerics.reduction = \"fast\"");
    let fast = resolve(SMALLEST, &["numerics.reduction=fast", "numerics.wire=bf16"]).unwrap();
    assert_eq!((fast.numerics.reduction, fast.numerics.wire), (Reduction::Fast, Wire::Bf16));
    let usual = resolve(SMALLEST, &[]).unwrap().numerics;
    assert_eq!((usual.reduction, usual.block, usual.wire), (Reduction::Canonical, 1, Wire::Fp32));
}

#[test]
fn a_bind_beyond_loopback_needs_insecure() {
    let (what, hint) = only(&["cluster.bind=0.0.0.0:7171"]);
    assert!(what.starts_with("cluster.bind: \"0.0.0.0:7171\" can be reached"), "{what}");
    assert!(hint.contains("insecure = true"), "{hint}");
    let config = resolve(SMALLEST, &["cluster.bind=0.0.0.0:7171", "cluster.insecure=true"]);
    assert!(config.unwrap().cluster.insecure);
}

#[test]
fn a_step_list_must_list_something_well_formed() {
    for (drops, what) in [
        ("[]", "must list at least one drop"),
        ("3", "must be a list, is 3"),
        ("[3]", "must be a table, is 3"),
        ("[{ epoch = 3 }]", "must have an epoch and a factor"),
        ("[{ epoch = -1, factor = 1 }]", "epoch must be 0 to 1000000, is -1"),
        ("[{ epoch = 1, factor = 1, rate = 1 }]", "\"rate\" is not part of a drop"),
    ] {
        let (found, _) = only(&["schedule.kind=steps", &format!("schedule.drops={drops}")]);
        assert!(found.ends_with(what), "{found} / {what}");
    }
    assert_eq!(only(&["schedule.kind=steps"]).0, "schedule.drops: is missing and has no default");
}

#[test]
fn broken_toml_is_told_with_its_line_and_nothing_else() {
    let found = problems("[run]\nurl = \"a\"\nname = \n\n[data\n", &["train.batch=0"]);
    assert!(found[0].starts_with("line 3 : not TOML: "), "{found:?}");
    assert!(!found.iter().any(|it| it.contains("missing")), "{found:?}");
    let found = problems("[run]\nurl = \"a\"\nurl = \"b\"\n", &[]);
    assert!(found[0].starts_with("line 3 : not TOML: duplicate key"), "{found:?}");
}

#[test]
fn a_section_that_is_none_and_a_field_without_section_are_told() {
    let found = problems("train = 3\nlr = 0.1\n[[data]]\n", &["data.url=x", "run.url=x"]);
    assert_eq!(
        found,
        [
            "line 1 train: must be a section",
            "line 2 lr: no field has this name",
            "line 3 data: must be a section",
        ]
    );
}

#[test]
fn a_file_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("latin1.toml", b"[run]\nname = \"\xe9\"\n");
    write("long.toml", &vec![b'#'; (1 << 20) + 1]);
    for (name, what) in [
        ("", "is a folder"),
        ("none.toml", "no such file"),
        ("latin1.toml", "is not UTF-8"),
        ("long.toml", "is longer than 1 MiB"),
    ] {
        let error = load(&folder.path().join(name), &[]).unwrap_err();
        assert_eq!(error.problems.len(), 1);
        assert_eq!(error.problems[0].what, what);
        assert!(error.problems[0].hint.is_some());
    }
    let error = load(&folder.path().join("latin1.toml"), &[]).unwrap_err();
    assert_eq!(error.problems[0].origin, Origin::File { line: Some(2) });
}
