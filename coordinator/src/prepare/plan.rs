//! What decides about the bytes of a data set: two packings with equal plans give equal bytes.
//!
//! The plan lies with the finished shards, and a packing goes on behind them only if its own is the
//! same. Where the source lies, the number of threads and what is done about bad pictures are not
//! part of it: a pick-up may come from another mount, with more threads, and more lenient.

use convoy_common::dataset::Encoding;
use serde_json::{Map, Value, json};

use super::Settings;
use super::source::Source;

/// Raised whenever the same settings would give other bytes.
const VERSION: u32 = 1;

/// As text that is compared byte for byte.
pub(super) fn text(settings: &Settings, source: &Source) -> String {
    let quality = (settings.encoding == Encoding::Jpeg256).then_some(settings.quality);
    let plan = json!({
        "version": VERSION,
        "encoding": settings.encoding.name(),
        "quality": quality,
        "shard-size": settings.sizes.shard,
        "val-fraction": settings.val_fraction,
        "source": source.fingerprint(),
    });
    format!("{plan:#}\n")
}

/// In what two plans differ, in words.
pub(super) fn differences(held: &str, wanted: &str) -> Vec<String> {
    let fields = |text: &str| -> Option<Map<String, Value>> { serde_json::from_str(text).ok() };
    let (Some(held), Some(wanted)) = (fields(held), fields(wanted)) else {
        return vec!["its plan cannot be read".to_owned()];
    };
    wanted
        .iter()
        .filter(|(name, value)| held.get(*name) != Some(value))
        .map(|(name, value)| match name.as_str() {
            "source" => "the source's names, sizes or labels are not what they were".to_owned(),
            name => format!("{name} was {}, now {value}", held.get(name).unwrap_or(&Value::Null)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_in_words() {
        let held = r#"{"quality": 90, "shard-size": 5, "source": "a"}"#;
        assert!(differences(held, held).is_empty());
        let wanted = r#"{"quality": 95, "shard-size": 5, "source": "b"}"#;
        let said = differences(held, wanted);
        assert_eq!(said[0], "quality was 90, now 95");
        assert!(said[1].starts_with("the source's names"));
        assert_eq!(differences("nonsense", held), ["its plan cannot be read"]);
    }
}
