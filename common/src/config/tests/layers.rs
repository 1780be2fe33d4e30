//! What a config says in the end: defaults, file, environment and overrides.

use super::*;

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
fn a_scaled_rate_is_shown_resolved_and_kept_within_bounds() {
    let given = ["train.batch=1024", "train.lr=0.1", "train.lr_base_batch=256"];
    let config = resolve(SMALLEST, &given).unwrap();
    assert!(config.to_toml().contains("(Goyal et al. 2017, 2.1); here 0.4\n"));
    let (what, hint) = only(&["train.lr=900", "train.lr_base_batch=64"]);
    assert!(what.starts_with("train.lr_base_batch: makes a rate of 1800;"), "{what}");
    assert!(hint.contains("lr * batch / lr_base_batch"), "{hint}");
}

#[test]
fn a_job_has_places_for_as_many_workers_as_a_batch_has_microbatches() {
    let cluster = |overrides: &[&str]| resolve(SMALLEST, overrides).unwrap().cluster;
    assert_eq!(cluster(&["cluster.workers=2"]).places(4), 4);
    assert_eq!(cluster(&["cluster.workers=6"]).places(4), 6);
    assert_eq!(cluster(&["cluster.workers=2", "cluster.max_workers=3"]).places(4), 3);
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
