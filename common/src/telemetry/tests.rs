use std::sync::mpsc::{Receiver, Sender, channel};

use tracing::subscriber::with_default;
use tracing_subscriber::Registry;

use super::*;

struct Pipe(Sender<String>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.0.send(String::from_utf8_lossy(bytes).into_owned()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn telemetry(format: Format) -> (Telemetry, Receiver<String>) {
    let (sender, lines) = channel();
    let telemetry = Telemetry::new(Settings {
        format,
        filter: "info".to_owned(),
        role: "worker".to_owned(),
        console: Some(Box::new(Pipe(sender))),
    });
    (telemetry, lines)
}

fn speak(telemetry: &Telemetry) {
    with_default(Registry::default().with(telemetry.layer()), || {
        let span = tracing::info_span!("step", rank = 1, step = 0, epoch = tracing::field::Empty);
        span.record("epoch", 3);
        let _entered = span.enter();
        tracing::info!(step = 7, loss = 4.605_170_186, nan = f64::NAN, peer = "a b", "step done");
    });
}

/// The text without its local time.
fn without_time(text: &str) -> &str {
    assert_eq!(&text[2..3], ":", "{text}");
    assert_eq!(&text[8..9], ".", "{text}");
    text[12..].trim_end()
}

const EXPECTED: &str =
    "  INFO worker-1    step done  step=7 loss=4.60517 nan=NaN peer=\"a b\" rank=1 epoch=3";

#[test]
fn a_text_line_has_level_who_message_and_the_fields_of_event_and_spans() {
    let (telemetry, lines) = telemetry(Format::Text);
    telemetry.identify(None, Some("worker-1"));
    speak(&telemetry);
    assert_eq!(without_time(&lines.recv().unwrap()), EXPECTED);
}

#[test]
fn a_json_line_renders_to_the_text_that_its_process_would_have_written() {
    let (telemetry, lines) = telemetry(Format::Json);
    telemetry.identify(Some("quick"), Some("worker-1"));
    speak(&telemetry);
    let json = lines.recv().unwrap();
    let line = Line::parse(&json).unwrap();
    assert_eq!((line.run.as_deref(), line.level.as_str()), (Some("quick"), "info"));
    assert_eq!(line.fields.get("loss").unwrap().as_f64(), Some(4.605_170_186));
    let mut text = String::new();
    render(&json, "ignored", false, &mut text);
    assert_eq!(without_time(&text), EXPECTED);
    text.clear();
    render(&json, "ignored", true, &mut text);
    assert!(text.contains("\x1b[32m INFO\x1b[0m"), "{text:?}");
}

#[test]
fn what_is_no_json_line_is_passed_on_with_who_said_it() {
    for line in ["thread 'x' panicked\n", "{\"time\":3}", "{", ""] {
        let mut text = String::new();
        render(line, "worker-2", false, &mut text);
        assert_eq!(
            without_time(&text),
            format!("     - worker-2    {}", line.trim_end()).trim_end()
        );
    }
}

#[test]
fn a_peer_cannot_forge_lines_or_colours() {
    let json = "{\"time\":\"\\n\",\"level\":\"info\",\"who\":\"a\\nb\",\"target\":\"t\",\
                \"message\":\"m\\u001b[31m\",\"fields\":{\"k\\n\":\"v\\n\",\"l\":[\"\\n\"]}}";
    let mut text = String::new();
    render(json, "w", false, &mut text);
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn the_file_starts_with_the_lines_from_before_it_was_named_and_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("logs");
    let mut path = PathBuf::new();
    for _ in 0..2 {
        let (telemetry, _lines) = telemetry(Format::Text);
        speak(&telemetry);
        telemetry.identify(None, Some("worker/1"));
        path = telemetry.write_file(&place).unwrap();
        speak(&telemetry);
    }
    assert_eq!(path, place.join("worker_1.log"));
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(!text.contains('\x1b'));
}

#[test]
fn a_log_folder_that_cannot_be_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("file");
    std::fs::write(&place, "").unwrap();
    let (telemetry, _lines) = telemetry(Format::Text);
    let error = telemetry.write_file(&place).unwrap_err();
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    assert!(error.hint().is_some());
}

#[test]
fn a_filter_that_is_none_is_a_typed_error() {
    let settings = Settings {
        format: Format::Text,
        filter: "convoy=loud".to_owned(),
        role: "worker".to_owned(),
        console: None,
    };
    let error = start(settings).err().unwrap();
    assert_eq!(error.exit_code(), exit::USAGE);
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_file_on_a_full_disk_ends_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    // A device on which there is never any room.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("worker.log")).unwrap();
    let (telemetry, lines) = telemetry(Format::Text);
    speak(&telemetry);
    telemetry.write_file(folder.path()).unwrap();
    speak(&telemetry);
    assert_eq!(lines.try_iter().count(), 2, "the console goes on");
}
