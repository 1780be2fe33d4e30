//! What `bench data` found out, as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::data::Spent;

/// What was measured.
pub(super) struct Report {
    pub(super) url: String,
    pub(super) encoding: &'static str,
    pub(super) threads: u32,
    pub(super) images: u64,
    pub(super) bytes_per_image: f64,
    /// Images a second.
    pub(super) read: f64,
    pub(super) spent: Spent,
    /// Images a second.
    pub(super) whole: f64,
    pub(super) feed: Option<f64>,
}

impl Report {
    /// Images a second of one thread that does nothing else; none where there is nothing to do.
    fn rate(&self, spent: Duration) -> Option<f64> {
        (!spent.is_zero()).then(|| self.spent.images as f64 / spent.as_secs_f64())
    }

    fn parts(&self) -> [(&'static str, Option<f64>); 3] {
        let Spent { decode, resize, augment, .. } = self.spent;
        [
            ("decode", self.rate(decode)),
            ("resize", self.rate(resize)),
            ("augment", self.rate(augment)),
        ]
    }

    /// Decode threads that feed so many images a second.
    pub(super) fn threads_for(&self, feed: f64) -> u64 {
        (feed * self.spent.an_image().as_secs_f64()).ceil().max(1.0) as u64
    }

    pub(super) fn as_json(&self) -> Value {
        let rate = |rate: f64| json!({ "images_per_second": rate });
        let mut stages = serde_json::Map::new();
        let bytes = self.read * self.bytes_per_image;
        let read = json!({ "images_per_second": self.read, "bytes_per_second": bytes });
        stages.insert("read".to_owned(), read);
        for (name, images) in self.parts() {
            stages.insert(name.to_owned(), images.map_or(Value::Null, rate));
        }
        json!({
            "data": self.url,
            "encoding": self.encoding,
            "threads": self.threads,
            "images": self.images,
            "bytes_per_image": self.bytes_per_image,
            "images_per_second": self.whole,
            "bytes_per_second": self.whole * self.bytes_per_image,
            "microseconds_per_image_and_thread": self.spent.an_image().as_secs_f64() * 1e6,
            "stages": stages,
            "feed": self.feed.map(|feed| {
                json!({ "images_per_second": feed, "threads": self.threads_for(feed) })
            }),
        })
    }

    pub(super) fn as_text(&self) -> String {
        let Self { url, encoding, threads, images, whole, .. } = self;
        let (kilobytes, megabytes) = (self.bytes_per_image / 1e3, self.bytes_per_image / 1e6);
        let mut text = format!(
            "{url}: {encoding}, {images} images of {kilobytes:.1} kB\n\
             read     {:>9.0} images/s, {:.0} MB/s\n",
            self.read,
            self.read * megabytes
        );
        for (name, rate) in self.parts() {
            text.push_str(&match rate {
                Some(rate) => {
                    let microseconds = 1e6 / rate;
                    format!(
                        "{name:8} {rate:>9.0} images/s of one thread, {microseconds:.0} us each\n"
                    )
                }
                None => format!("{name:8} {:>9}\n", "-"),
            });
        }
        text.push_str(&format!(
            "whole    {whole:>9.0} images/s, {:.0} MB/s with {threads} decode threads\n",
            whole * megabytes
        ));
        if let Some(feed) = self.feed {
            let needed = self.threads_for(feed);
            text.push_str(&format!("{feed} images/s need {needed} decode threads\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            url: "file:///data".to_owned(),
            encoding: "jpeg256",
            threads: 2,
            images: 1000,
            bytes_per_image: 20_000.0,
            read: 50_000.0,
            spent: Spent {
                images: 100,
                decode: Duration::from_millis(40),
                resize: Duration::ZERO,
                augment: Duration::from_millis(10),
            },
            whole: 3_000.0,
            feed: Some(4_100.0),
        }
    }

    #[test]
    fn threads_are_what_the_work_on_one_image_makes_necessary() {
        // 500 us an image: 2,000 images a second of one thread.
        for (feed, threads) in [(1.0, 1), (1_990.0, 1), (2_100.0, 2), (4_100.0, 3)] {
            assert_eq!(report().threads_for(feed), threads, "{feed}");
        }
    }

    #[test]
    fn both_forms_name_the_whole_and_every_part() {
        let json = report().as_json();
        assert_eq!(json["images_per_second"], 3_000.0);
        assert_eq!(json["bytes_per_second"], 60e6);
        assert_eq!(json["stages"]["read"]["bytes_per_second"], 1e9);
        assert_eq!(json["stages"]["decode"]["images_per_second"], 2_500.0);
        assert_eq!(json["stages"]["resize"], Value::Null);
        assert_eq!(json["feed"]["threads"], 3);
        let text = report().as_text();
        for part in ["read", "decode", "resize", "augment", "whole"] {
            assert!(text.lines().any(|line| line.starts_with(part)), "{part} is not in\n{text}");
        }
        assert!(text.ends_with("4100 images/s need 3 decode threads\n"), "{text}");
    }
}
