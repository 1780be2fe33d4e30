use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::exit;
use crate::failure::Explain as _;

const SMALLEST: &str = "[run]\nurl = \"runs/a\"\n[data]\nurl = \"s3://bucket/data\"\n";

fn source(overrides: &[&str]) -> Source {
    let overrides: Vec<String> = overrides.iter().map(|it| (*it).to_owned()).collect();
    Source::new(Path::new("a.toml"), &overrides).with_environment(vec![]).with_folder("/home/me")
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn resolve(text: &str, overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    source(overrides).resolve_text(text).map(|resolved| resolved.config)
}

/// `LINE FIELD: WHAT` for each problem of `text`.
fn problems(text: &str, overrides: &[&str]) -> Vec<String> {
    let error = resolve(text, overrides).expect_err("the config is wrong");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    let one = |it: &Problem| format!("{} {}: {}", it.origin, it.field, it.what);
    error.problems.iter().map(one).collect()
}

/// The single problem of the smallest config with `lines` added, as (what, hint).
fn only(overrides: &[&str]) -> (String, String) {
    let error = resolve(SMALLEST, overrides).expect_err("the config is wrong");
    assert_eq!(error.problems.len(), 1, "{error}");
    let problem = &error.problems[0];
    (format!("{}: {}", problem.field, problem.what), problem.hint.clone().unwrap_or_default())
}

#[test]
fn the_default_is_the_papers_recipe() {
    let config = resolve(SMALLEST, &[]).unwrap();
    assert_eq!(config.run.url, "file:///home/me/runs/a");
    assert_eq!(config.data.url, "s3://bucket/data");
    assert_eq!(
        config.train,
        Train {
            epochs: 90,
            max_steps: None,
            batch: 128,
            lr: 0.01,
            momentum: 0.9,
            weight_decay: 0.0005,
            lr_base_batch: None,
            optimizer: Optimizer::Sgd,
            lars_trust: 0.001
        }
    );
    assert_eq!(
        config.schedule,
        Decay::Plateau { min_delta: 1, patience: 3, divide_by: 10.0, max_drops: 3 }.into()
    );
    assert_eq!((config.model.groups, config.model.dropout), (2, 0.5));
    assert_eq!((config.model.init, config.model.conv_bias), (Init::Gaussian, 1.0));
    assert_eq!(config.data.colour_sigma, 0.1);
    assert_eq!((config.data.shuffle, config.data.shuffle_window), (Shuffle::Auto, 16));
    assert_eq!((&config.data.cache, config.data.cache_size), (&CacheFolder::Auto, 64 << 30));
    assert_eq!(config.data.read_timeout, Duration::from_secs(30));
    assert_eq!(config.cluster.ring_chunk, 256 << 10);
    assert_eq!(config.cluster.ring_timeout, Duration::from_secs(30));
    assert_eq!(config.log_folder(), Path::new("runs/alexnet/logs"));
}

#[test]
fn set_wins_over_environment_over_file_over_default() {
    let text = format!("{SMALLEST}[train]\nbatch = 64\nlr = 0.02\nepochs = 7\n");
    let variables = environment(&[("CONVOY_TRAIN_LR", "0.03"), ("CONVOY_TRAIN_EPOCHS", "8")]);
    let resolved =
        source(&["train.epochs=9"]).with_environment(variables).resolve_text(&text).unwrap();
    let train = &resolved.config.train;
    assert_eq!((train.momentum, train.batch, train.lr, train.epochs), (0.9, 64, 0.03, 9));
    assert_eq!(resolved.origin("train.momentum"), Some(&Origin::Default));
    assert_eq!(resolved.origin("train.batch"), Some(&Origin::File { line: Some(6) }));
    assert_eq!(
        resolved.origin("train.lr"),
        Some(&Origin::Environment { variable: "CONVOY_TRAIN_LR".to_owned() })
    );
    assert_eq!(resolved.origin("train.epochs"), Some(&Origin::Set));
    let printed = resolved.to_toml();
    assert!(printed.contains("(CONVOY_TRAIN_LR)"), "{printed}");
    assert!(printed.contains("(line 6)"), "{printed}");
}

#[test]
fn overrides_need_no_quotes_for_the_shell() {
    let config = resolve(
        SMALLEST,
        &[
            "run.name=2012",
            "cluster.bind=localhost:0",
            "cluster.ring_timeout = 45s",
            "cluster.ring_chunk=1MiB",
            "model.init=\"kaiming\"",
            "schedule.kind=steps",
            "schedule.drops=[{ epoch = 2, factor = 0.5 }]",
            "train.max_steps=5",
            "train.lr=1",
        ],
    )
    .unwrap();
    assert_eq!(config.run.name, "2012");
    assert_eq!(config.cluster.bind, "localhost:0");
    assert_eq!(config.cluster.ring_timeout, Duration::from_secs(45));
    assert_eq!(config.cluster.ring_chunk, 1 << 20);
    assert_eq!(config.model.init, Init::Kaiming);
    assert_eq!(
        config.schedule,
        Decay::Steps { drops: vec![RateDrop { epoch: 2, factor: 0.5 }] }.into()
    );
    assert_eq!((config.train.max_steps, config.train.lr), (Some(5), 1.0));
}

#[test]
fn another_kind_of_schedule_on_top_takes_the_files_schedule_away() {
    let text = format!("{SMALLEST}[schedule]\nkind = \"plateau\"\npatience = 9\n");
    let schedule = resolve(&text, &["schedule.kind=constant"]).unwrap().schedule;
    assert_eq!(schedule, Decay::Constant.into());
    assert_eq!(
        problems(&text, &["schedule.kind=constant", "schedule.patience=2"]),
        ["--set schedule.patience: has no meaning with kind = \"constant\""]
    );
}

#[test]
fn another_kind_of_schedule_on_top_keeps_the_files_warm_up() {
    let text =
        format!("{SMALLEST}[schedule]\nkind = \"cosine\"\nend_lr = 0.001\nwarmup_epochs = 4\n");
    let schedule = resolve(&text, &["schedule.kind=polynomial"]).unwrap().schedule;
    assert_eq!(schedule.decay, Decay::Polynomial { power: 2.0, end_lr: 0.0 });
    assert_eq!((schedule.warmup_epochs, schedule.warmup_from), (4, 0.1));
}

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
fn a_scaled_rate_is_shown_resolved_and_kept_within_bounds() {
    let given = ["train.batch=1024", "train.lr=0.1", "train.lr_base_batch=256"];
    let config = resolve(SMALLEST, &given).unwrap();
    assert!(config.to_toml().contains("(Goyal et al. 2017, 2.1); here 0.4\n"));
    let (what, hint) = only(&["train.lr=900", "train.lr_base_batch=64"]);
    assert!(what.starts_with("train.lr_base_batch: makes a rate of 1800;"), "{what}");
    assert!(hint.contains("lr * batch / lr_base_batch"), "{hint}");
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
fn a_job_has_places_for_as_many_workers_as_a_batch_has_microbatches() {
    let cluster = |overrides: &[&str]| resolve(SMALLEST, overrides).unwrap().cluster;
    assert_eq!(cluster(&["cluster.workers=2"]).places(4), 4);
    assert_eq!(cluster(&["cluster.workers=6"]).places(4), 6);
    assert_eq!(cluster(&["cluster.workers=2", "cluster.max_workers=3"]).places(4), 3);
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
fn a_variable_that_names_no_field_is_a_problem_and_others_are_not() {
    let wrong = environment(&[("CONVOY_TRAIN_BACTH", "1"), ("CONVOY_RUN_SEED", "x")]);
    let error = source(&[]).with_environment(wrong).resolve_text(SMALLEST).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("CONVOY_TRAIN_BACTH (environment): no field"), "{text}");
    assert!(text.contains("did you mean CONVOY_TRAIN_BATCH?"), "{text}");
    assert!(text.contains("CONVOY_RUN_SEED (environment): run.seed: must be a whole"), "{text}");
    let other = environment(&[
        ("CONVOY_LOG", "debug"),
        ("CONVOY_LOG_FORMAT", "json"),
        ("CONVOY_LOG_LEVEL", "debug"),
        ("CONVOYS", "1"),
        ("CONVOY_CACHE", "1"),
        ("PATH", "/bin"),
    ]);
    assert!(source(&[]).with_environment(other).resolve_text(SMALLEST).is_ok());
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

#[test]
fn the_table_of_fields_and_the_config_name_the_same_fields() {
    let mut in_config = Vec::new();
    for kind in ["plateau", "steps", "polynomial"] {
        let drops = "schedule.drops=[{ epoch = 1, factor = 1 }]";
        let more: &[&str] = if kind == "steps" { &[drops] } else { &[] };
        let kind = format!("schedule.kind={kind}");
        let config = resolve(SMALLEST, &[&[kind.as_str()], more].concat()).unwrap();
        for (section, table) in config.to_value().as_object().unwrap() {
            in_config.extend(table.as_object().unwrap().keys().map(|it| format!("{section}.{it}")));
        }
    }
    in_config.sort();
    in_config.dedup();
    let mut in_table: Vec<String> = fields::FIELDS.iter().map(|it| it.key.to_owned()).collect();
    in_table.sort();
    assert_eq!(in_config, in_table);
}

#[test]
fn the_json_form_is_checked_like_a_file() {
    let config = resolve(SMALLEST, &[]).unwrap();
    assert_eq!(RunConfig::from_json(&config.to_json()).unwrap(), config);
    let mut altered = config.clone();
    altered.train.batch = 0;
    altered.cluster.bind = "0.0.0.0:1".to_owned();
    altered.run.url = "relative".to_owned();
    let error = RunConfig::from_json(&altered.to_json()).unwrap_err();
    // The batch, its microbatch is not compared, the bind and the URL.
    assert_eq!(error.problems.len(), 3, "{error}");
    for text in ["", "{}", "[]", "{\"run\":{}}"] {
        assert!(RunConfig::from_json(text).is_err());
    }
}

#[test]
fn the_digest_tells_configs_apart_and_nothing_else() {
    let config = resolve(SMALLEST, &[]).unwrap();
    assert_eq!(config.digest(), resolve(&config.to_toml(), &[]).unwrap().digest());
    let other = resolve(SMALLEST, &["train.lr=0.010000000000000002"]).unwrap();
    assert_ne!(config.digest(), other.digest());
    assert_eq!(config.digest().len(), 64);
}

prop_compose! {
    /// Overrides of fields of every form, all of them possible.
    fn overrides()(
        name in "[a-z0-9][a-zA-Z0-9._-]{0,20}",
        url in "[a-z\"\\\\é \t]{1,12}x",
        seed in 0..=i64::MAX,
        batch in 1u32..1_000_000,
        lr in 1e-12f64..1000.0,
        momentum in 0f64..1.0,
        bias in -1000f64..1000.0,
        max_steps in prop::option::of(1u64..1_000_000_000),
        ring_chunk in 4096u64..=4 << 20,
        ring_timeout in 3001u64..10_000_000,
        schedule in 0..5,
        warmup in prop::option::of(0f64..=1.0),
        factors in prop::collection::vec(1e-6f64..10.0, 1..5),
        workers in 1u32..=1024,
        insecure: bool,
    ) -> Vec<String> {
        let quoted = serde_json::Value::String(url).to_string();
        let mut given = vec![
            format!("run.name={name}"),
            format!("run.url={quoted}"),
            format!("run.seed={seed}"),
            format!("train.batch={batch}"),
            "numerics.microbatch=1".to_owned(),
            format!("train.lr={lr:?}"),
            format!("train.momentum={momentum:?}"),
            format!("model.conv_bias={bias:?}"),
            format!("cluster.ring_chunk={ring_chunk}B"),
            format!("cluster.ring_timeout={ring_timeout}ms"),
            format!("cluster.workers={workers}"),
            format!("cluster.insecure={insecure}"),
        ];
        given.extend(max_steps.map(|it| format!("train.max_steps={it}")));
        match schedule {
            0 => given.push("schedule.kind=constant".to_owned()),
            1 => given.push(format!("schedule.divide_by={:?}", factors[0] + 1.0)),
            2 => given.extend(["schedule.kind=cosine".to_owned(), format!("train.lr_base_batch={batch}")]),
            3 => {
                given.push("schedule.kind=polynomial".to_owned());
                given.push(format!("schedule.power={:?}", factors[0]));
                given.push(format!("schedule.end_lr={:?}", lr / 2.0));
            }
            _ => {
                let drop = |(epoch, factor)| format!("{{ epoch = {epoch}, factor = {factor:?} }}");
                let drops: Vec<String> = factors.iter().enumerate().map(drop).collect();
                given.push("schedule.kind=steps".to_owned());
                given.push(format!("schedule.drops=[{}]", drops.join(", ")));
            }
        }
        if let Some(from) = warmup {
            given.push("schedule.warmup_epochs=3".to_owned());
            given.push(format!("schedule.warmup_from={from:?}"));
        }
        given
    }
}

proptest! {
    #[test]
    fn toml_and_json_forms_read_back_bit_for_bit(given in overrides()) {
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let resolved = source(&given).resolve_text(SMALLEST).map_err(|it| TestCaseError::fail(it.to_string()))?;
        let config = resolved.config.clone();
        for text in [config.to_toml(), resolved.to_toml()] {
            let again = resolve(&text, &[]).map_err(|it| TestCaseError::fail(format!("{it}\n{text}")))?;
            prop_assert_eq!(&again, &config);
            prop_assert_eq!(again.train.lr.to_bits(), config.train.lr.to_bits());
        }
        let again = RunConfig::from_json(&config.to_json()).map_err(|it| TestCaseError::fail(it.to_string()))?;
        prop_assert_eq!(again.digest(), config.digest());
        prop_assert_eq!(again.train.lr.to_bits(), config.train.lr.to_bits());
        prop_assert_eq!(again, config);
    }

    #[test]
    fn the_highest_layer_that_gives_a_value_wins(
        file in prop::option::of(1u32..100),
        variable in prop::option::of(101u32..200),
        set in prop::collection::vec(201u32..300, 0..3),
    ) {
        let line = file.map(|it| format!("[train]\nepochs = {it}\n")).unwrap_or_default();
        let variables: Vec<_> = variable.iter()
            .map(|it| ("CONVOY_TRAIN_EPOCHS".into(), it.to_string().into()))
            .collect();
        let given: Vec<String> = set.iter().map(|it| format!("train.epochs={it}")).collect();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let resolved = source(&given)
            .with_environment(variables)
            .resolve_text(&format!("{SMALLEST}{line}"))
            .unwrap();
        let expected = set.last().copied().or(variable).or(file).unwrap_or(90);
        prop_assert_eq!(resolved.config.train.epochs, expected);
    }

    #[test]
    fn any_text_as_config_or_override_is_an_answer_and_not_a_panic(
        text in "(\\[(run|data|train|schedule|x)\\]\n|(url|lr|drops|kind|batch) ?= ?[-0-9a-z\"'\\[{}\\].,=_ ]{0,12}\n|\\PC{0,8}\n?){0,8}",
        given in prop::collection::vec("(train|schedule|cluster|\\PC{0,3})\\.(lr|drops|bind|\\PC{0,3})=\\PC{0,10}", 0..3),
    ) {
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        if let Err(error) = resolve(&text, &given) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_bytes_as_a_file_are_an_answer_and_not_a_panic(bytes: Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, bytes).unwrap();
        let outcome = Source::new(&path, &[]).with_environment(vec![]).resolve();
        prop_assert!(outcome.is_err(), "nothing random names both URLs");
    }
}

#[test]
fn a_variant_of_the_net_brings_its_own_groups_and_side() {
    let of = |overrides: &[&str]| resolve(SMALLEST, overrides).unwrap().model;
    for (name, groups, side) in
        [("alexnet", 2, 227), ("alexnet-bn", 2, 227), ("alexnet-owt", 1, 224)]
    {
        let model = of(&[&format!("model.name={name}")]);
        assert_eq!((model.name.as_str(), model.groups), (name, groups));
        assert_eq!(model.name.input_side(), side);
        assert_eq!(name.parse(), Ok(model.name));
    }
    assert_eq!(of(&["model.groups=1"]).groups, 1);
    let (what, hint) = only(&["model.name=alexnet-owt", "model.groups=2"]);
    assert_eq!(what, "model.groups: must be 1 with name = \"alexnet-owt\", is 2");
    assert_eq!(hint, "write groups = 1, or another name");
}

#[test]
fn how_data_are_shuffled_cached_and_read_is_for_the_user_to_say() {
    let config = resolve(
        SMALLEST,
        &[
            "data.shuffle=window",
            "data.shuffle_window=3",
            "data.cache=cache",
            "data.cache_size=512MiB",
            "data.read_timeout=1m 30s",
        ],
    )
    .unwrap();
    assert_eq!((config.data.shuffle, config.data.shuffle_window), (Shuffle::Window, 3));
    assert_eq!(config.data.cache, CacheFolder::Folder("/home/me/cache".to_owned()));
    assert_eq!(config.data.cache_size, 512 << 20);
    assert_eq!(config.data.read_timeout, Duration::from_secs(90));
    let printed = config.to_toml();
    for line in [
        "shuffle = \"window\"",
        "cache = \"/home/me/cache\"",
        "cache_size = \"512MiB\"",
        "read_timeout = \"1m 30s\"",
    ] {
        assert!(printed.lines().any(|it| it.starts_with(line)), "{line} is not in\n{printed}");
    }
    assert_eq!(resolve(&printed, &[]).unwrap(), config);
    let off = resolve(SMALLEST, &["data.cache=none"]).unwrap();
    assert_eq!(off.data.cache, CacheFolder::Off);
    assert_eq!(RunConfig::from_json(&off.to_json()).unwrap(), off);
}

#[test]
fn a_record_from_before_there_was_a_choice_means_a_full_shuffle() {
    let config = resolve(SMALLEST, &[]).unwrap();
    let mut value = config.to_value();
    let data = value["data"].as_object_mut().unwrap();
    for field in ["shuffle", "shuffle_window", "cache", "cache_size", "read_timeout"] {
        assert!(data.remove(field).is_some(), "{field}");
    }
    let older: RunConfig = serde_json::from_value(value).unwrap();
    assert_eq!(older.data, Data { shuffle: Shuffle::Full, ..config.data });
}

#[test]
fn precision_and_optimizer_are_words_with_the_papers_as_default() {
    let config = resolve(SMALLEST, &[]).unwrap();
    assert_eq!(config.numerics.precision, Precision::Fp32);
    let config = resolve(
        SMALLEST,
        &["numerics.precision=bf16", "train.optimizer=lars", "train.lars_trust=0.01"],
    )
    .unwrap();
    assert_eq!(config.numerics.precision, Precision::Bf16);
    assert_eq!((config.train.optimizer, config.train.lars_trust), (Optimizer::Lars, 0.01));
    assert!(only(&["numerics.precision=fp16"]).0.starts_with("numerics.precision: "));
    assert!(only(&["train.lars_trust=0"]).0.contains("more than 0"));
}
