//! Trained nets leave and enter: a checkpoint becomes a file, a file becomes the beginning of a run,
//! and both say what is in pictures. On the real program where its words matter.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use convoy_common::checkpoint::locate;
use convoy_common::config::{RunConfig, Source};
use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::image::decode;
use convoy_common::store::Store;
use convoy_worker::model::{Device, Net, Spec};
use convoy_worker::trained::{self, Trained, Weights, start};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CLASSES: [&str; 3] = ["crow", "gull", "wren"];

/// A folder with a packed data set of a few pictures.
struct Place {
    folder: TempDir,
    runtime: Runtime,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), runtime: Runtime::new().unwrap() };
        place.runtime.block_on(async {
            let store = Store::open(place.path("data").to_str().unwrap()).unwrap();
            let mut writer = PackWriter::start(store, Sizes::default()).await.unwrap();
            let mut statistics = PixelStatistics::default();
            for number in 0..8_u8 {
                let split = if number < 6 { Split::Train } else { Split::Validation };
                let bytes = jpeg(number);
                if split == Split::Train {
                    statistics.add(&decode(&bytes).unwrap());
                }
                let name = format!("{number}.jpeg");
                writer.append(split, u16::from(number) % 3, &name, &bytes).await.unwrap();
            }
            let classes = CLASSES.map(str::to_owned);
            writer.finish(&classes, &statistics.summary()).await.unwrap();
        });
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, run: &str, more: &[&str]) -> RunConfig {
        let more: Vec<String> = more.iter().map(|&it| it.to_owned()).collect();
        let text = format!(
            "[run]\nurl = '{run}'\nseed = 3\n[data]\nurl = 'data'\n[model]\nnarrow = 16\n\
             init = 'kaiming'\npixel_scale = 0.017\n"
        );
        let source = Source::new("test.toml".as_ref(), &more)
            .with_environment(Vec::new())
            .with_folder(self.folder.path());
        source.resolve_text(&text).unwrap().config
    }

    fn dataset(&self) -> Dataset {
        let store = Store::open(self.path("data").to_str().unwrap()).unwrap();
        self.runtime.block_on(Dataset::open(store)).unwrap()
    }

    /// A run whose first checkpoint holds the weights of its seed, and their digest.
    fn run(&self, name: &str) -> String {
        let config = self.config(name, &[]);
        let spec = Spec::of(&config.model, CLASSES.len()).unwrap();
        let net = Net::initialised(spec, &config.model, config.run.seed, Device::CPU).unwrap();
        let (manifest, _) = self.begin(&config, &net).unwrap();
        manifest
    }

    fn begin(&self, config: &RunConfig, net: &Net) -> Result<(String, u64), Failure> {
        let identity = self.dataset().identity();
        let created = self.runtime.block_on(start::create(config, &identity, net))?;
        Ok((created.0.state_digest, created.1.lineage.0))
    }

    fn open(&self, source: &Path) -> Trained {
        let opening = Trained::open(source.to_str().unwrap(), None, Device::CPU);
        self.runtime.block_on(opening).unwrap()
    }

    fn export(&self, run: &str, file: &str) -> PathBuf {
        let trained = self.open(&self.path(run));
        let path = self.path(file);
        trained::write(&path, &trained.net, &trained.facts, false).unwrap();
        path
    }

    /// The program's own answer.
    fn worker(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_convoy-worker"));
        command.current_dir(self.folder.path()).args(arguments).output().unwrap()
    }
}

/// A picture of 256 x 256 pixels in the colour of its class.
fn jpeg(number: u8) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(256 * 256 * 3);
    for place in 0..256 * 256_u32 {
        let shade = (place % 256 * 7 + place / 256 * 13 + u32::from(number) * 31) % 97;
        let mut pixel = [shade as u8; 3];
        pixel[usize::from(number) % 3] += 100;
        pixels.extend(pixel);
    }
    let mut out = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut out, 90);
    encoder.encode(&pixels, 256, 256, jpeg_encoder::ColorType::Rgb).unwrap();
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_exported_net_is_the_checkpoints_and_equal_nets_make_equal_files() {
    let place = Place::new();
    place.run("run");
    let one = place.export("run", "one.safetensors");
    let two = place.export("run", "two.safetensors");
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());

    let (checkpoint, file) = (place.open(&place.path("run")), place.open(&one));
    assert_eq!(checkpoint.net.digest().unwrap(), file.net.digest().unwrap());
    assert_eq!(checkpoint.facts, file.facts);
    assert_eq!(file.facts.class_names, CLASSES);
    assert_eq!(file.facts.mean_image, place.dataset().mean_image());
    let digest = file.facts.trained["state_digest"].as_str().unwrap();
    let run = place.path("run");
    let found = locate(run.to_str().unwrap());
    assert_eq!(digest, place.runtime.block_on(found).unwrap().manifest.state_digest);
    let names: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 4, "no half-written file is left");
}

#[test]
fn a_file_that_is_there_is_replaced_only_if_told_to() {
    let place = Place::new();
    place.run("run");
    let path = place.export("run", "net.safetensors");
    let trained = place.open(&path);
    let error = trained::write(&path, &trained.net, &trained.facts, false).unwrap_err();
    assert_eq!(error.code(), exit::BAD_INPUT);
    assert!(error.hint().unwrap().contains("--force"), "{error}");
    trained::write(&path, &trained.net, &trained.facts, true).unwrap();

    // What is no file stays, whatever is told.
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = trained::write(&pipe, &trained.net, &trained.facts, true).unwrap_err();
    assert_eq!(error.code(), exit::BAD_INPUT, "{error}");
    assert!(!std::fs::metadata(&pipe).unwrap().is_file());
}

#[test]
fn a_run_begins_with_the_weights_of_a_file_once_and_keeps_them() {
    let place = Place::new();
    let expected = place.run("first");
    let file = place.export("first", "net.safetensors");
    let config = place.config("second", &["run.seed=99"]);
    let weights = place.runtime.block_on(Weights::read(file.to_str().unwrap())).unwrap();
    let spec = Spec::of(&config.model, CLASSES.len()).unwrap();
    let mut net = Net::initialised(spec, &config.model, 99, Device::CPU).unwrap();
    weights.fill(&mut net, true).unwrap();
    assert_eq!(place.begin(&config, &net).unwrap(), (expected.clone(), 2));

    let found = place.runtime.block_on(locate(place.path("second").to_str().unwrap())).unwrap();
    assert_eq!(found.manifest.state_digest, expected, "the newest lineage goes on from it");
    assert_eq!((found.manifest.shared.global_step, found.manifest.lineage.0), (0, 1));

    let error = place.begin(&config, &net).unwrap_err();
    assert!(error.to_string().contains("has begun already"), "{error}");
}

#[test]
fn the_last_layer_may_start_afresh_for_other_classes() {
    let place = Place::new();
    place.run("run");
    let file = place.export("run", "net.safetensors");
    let weights = place.runtime.block_on(Weights::read(file.to_str().unwrap())).unwrap();
    let config = place.config("more", &["run.seed=99"]);
    let fresh = |classes| {
        let spec = Spec::of(&config.model, classes).unwrap();
        Net::initialised(spec, &config.model, 99, Device::CPU).unwrap()
    };
    let mut net = fresh(7);
    let error = weights.fill(&mut net, true).unwrap_err();
    assert!(error.to_string().contains("fc8.weight"), "{error}");
    assert!(error.hint().unwrap().contains("--new-classes"), "{error}");

    let (mut net, trained) = (fresh(7), place.open(&file));
    weights.fill(&mut net, false).unwrap();
    let specs = net.state_specs();
    for (index, (name, shape)) in specs.iter().enumerate().take(16) {
        let source = if name.starts_with("fc8") { &fresh(7) } else { &trained.net };
        let rows = 0..shape[0];
        assert!(
            net.read_rows(index, rows.clone()).unwrap() == source.read_rows(index, rows).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_reason() {
    let place = Place::new();
    place.run("run");
    let file = place.export("run", "net.safetensors");
    let read = |path: &Path| place.runtime.block_on(Weights::read(path.to_str().unwrap()));
    let weights = read(&file).unwrap();
    let error = weights.check_pixel_scale(1.0).unwrap_err();
    let hint = Failure::from(error).hint().unwrap().to_owned();
    assert_eq!(hint, "write pixel_scale = 0.017 under [model]");
    weights.check_pixel_scale(0.017).unwrap();

    let wide = Spec::narrowed(2, 3, 8).unwrap();
    let error = weights.fill(&mut Net::zeroed(wide, Device::CPU).unwrap(), true).unwrap_err();
    assert!(error.to_string().contains("conv1.weight"), "{error}");

    let bytes = std::fs::read(&file).unwrap();
    for (name, bytes) in [
        ("cut.safetensors", &bytes[..bytes.len() - 5]),
        ("none.safetensors", &b"no weights"[..]),
        ("empty.safetensors", &[]),
    ] {
        std::fs::write(place.path(name), bytes).unwrap();
        let error = read(&place.path(name)).err().unwrap();
        assert_eq!(error.code(), exit::BAD_INPUT, "{error}");
        assert!(error.to_string().contains("is not a safetensors file"), "{error}");
    }
    let mut odd = bytes.clone();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor("conv1.weight").unwrap().data().as_ptr();
    let at = data as usize - bytes.as_ptr() as usize;
    odd[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(place.path("odd.safetensors"), odd).unwrap();
    let mut net = Net::zeroed(Spec::narrowed(2, 3, 16).unwrap(), Device::CPU).unwrap();
    weights.fill(&mut net, true).unwrap();
    let error = read(&place.path("odd.safetensors")).unwrap().fill(&mut net, true).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");

    let error = read(&place.path("absent.safetensors")).err().unwrap();
    assert!(error.to_string().contains("cannot read"), "{error}");
}

#[test]
fn predict_tells_a_checkpoint_and_its_file_alike_and_passes_over_what_is_no_picture() {
    let place = Place::new();
    place.run("run");
    place.export("run", "net.safetensors");
    std::fs::create_dir(place.path("pictures")).unwrap();
    for number in 0..3 {
        std::fs::write(place.path(&format!("pictures/{number}.jpg")), jpeg(number)).unwrap();
    }
    std::fs::write(place.path("pictures/1b.jpg"), b"no picture").unwrap();
    let predict = |source: &str, more: &[&str]| {
        let arguments = ["predict", "--device", "cpu", "--checkpoint", source, "pictures"];
        place.worker(&[&arguments[..], more].concat())
    };
    let mut lines = Vec::new();
    for source in ["run", "net.safetensors"] {
        let output = predict(source, &["--json"]);
        assert_eq!(output.status.code(), Some(i32::from(exit::BAD_INPUT)));
        let errors = text(&output.stderr);
        assert!(errors.contains("cannot use pictures/1b.jpg"), "{errors}");
        assert!(errors.contains("1 of 4 pictures could not be used"), "{errors}");
        lines.push(text(&output.stdout));
    }
    assert_eq!(lines[0], lines[1]);
    let told: Vec<Value> =
        lines[0].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let images: Vec<&str> = told.iter().map(|it| it["image"].as_str().unwrap()).collect();
    assert_eq!(images, ["pictures/0.jpg", "pictures/1.jpg", "pictures/2.jpg"]);
    for it in &told {
        let predictions = it["predictions"].as_array().unwrap();
        let sum: f64 = predictions.iter().map(|it| it["probability"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "three classes are all there are: {it}");
        for it in predictions {
            let label = it["label"].as_u64().unwrap() as usize;
            assert_eq!(it["class"], CLASSES[label]);
        }
        assert!(
            predictions.is_sorted_by(|a, b| {
                a["logit"].as_f64().unwrap() >= b["logit"].as_f64().unwrap()
            })
        );
    }

    std::fs::remove_file(place.path("pictures/1b.jpg")).unwrap();
    let output = predict("run", &["--crops", "10", "--top", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.starts_with("pictures/0.jpg\n") && table.contains(" %  "), "{table}");
}

#[test]
fn the_commands_export_import_and_evaluate_work_together() {
    let place = Place::new();
    place.run("run");
    let config = "[run]\nurl = 'begun'\n[data]\nurl = 'data'\n[model]\nnarrow = 16\n\
                  init = 'kaiming'\npixel_scale = 0.017\n";
    std::fs::write(place.path("begun.toml"), config).unwrap();
    let good = |arguments: &[&str]| {
        let output = place.worker(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let said = good(&["export", "--checkpoint", "run", "--output", "net.safetensors"]);
    assert!(said.contains("step 0, 3 classes"), "{said}");
    let said = good(&["import", "net.safetensors", "begun.toml"]);
    assert!(said.contains("checkpoints/1/000000000000/manifest.json"), "{said}");
    let counts = |source: &str, crops: &str| {
        let arguments =
            ["evaluate", "--device", "cpu", "--json", "--checkpoint", source, "--crops", crops];
        let json: Value = serde_json::from_str(&good(&arguments)).unwrap();
        assert_eq!((json["images"].as_u64(), &json["crops"]), (Some(2), &crops.parse().unwrap()));
        (json["top1_correct"].clone(), json["loss"].clone())
    };
    assert_eq!(counts("run", "1"), counts("begun", "1"));
    assert_eq!(counts("run", "10"), counts("begun", "10"));
    assert_ne!(counts("run", "1").1, counts("run", "10").1);
}
