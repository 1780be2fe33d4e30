//! The forms in which a config is written down, and what is read of any text.

use super::*;

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
