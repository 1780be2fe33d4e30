//! Real images are dirty: each kind with what becomes of it.

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!("../../../../common/src/image/fixtures/", $name))[..]
    };
}

/// A PNG of one colour, `width x height`, with the claimed size in its header.
fn png(width: u32, height: u32, claimed: (u32, u32)) -> Vec<u8> {
    use std::io::Write as _;
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        let start = bytes.len();
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(data);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[start..]);
        bytes.extend_from_slice(&crc.sum().to_be_bytes());
    };
    let (claimed_width, claimed_height) = claimed;
    let size = [claimed_width.to_be_bytes(), claimed_height.to_be_bytes()].concat();
    chunk(b"IHDR", &[&size[..], &[8, 2, 0, 0, 0]].concat());
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..height {
        encoder.write_all(&[0]).unwrap();
        encoder.write_all(&[90, 160, 230].repeat(width as usize)).unwrap();
    }
    chunk(b"IDAT", &encoder.finish().unwrap());
    chunk(b"IEND", b"");
    bytes
}

/// A JPEG whose frame header is changed from `at` bytes behind its marker.
fn with_frame(at: usize, change: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg(100, 1);
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + at..frame + at + change.len()].copy_from_slice(change);
    bytes
}

fn plain(width: u32, height: u32) -> Vec<u8> {
    let pixels = [90, 160, 230].repeat((width * height) as usize);
    encode_jpeg(&Rgb8::new(width, height, pixels).unwrap(), 90, Chroma::Full).unwrap()
}

/// File, and why it cannot be used; nothing if it can.
fn kinds() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let whole = jpeg(100, 1);
    let bomb = [30_000_u16.to_be_bytes(), 30_000_u16.to_be_bytes()].concat();
    vec![
        ("cmyk.JPEG", fixture!("cmyk.jpg").to_vec(), None),
        ("ycck.JPEG", fixture!("ycck.jpg").to_vec(), None),
        ("grey.JPEG", fixture!("grey.jpg").to_vec(), None),
        ("progressive.JPEG", fixture!("progressive.jpg").to_vec(), None),
        ("rotated.JPEG", fixture!("rotated.jpg").to_vec(), None),
        ("png.JPEG", png(40, 30, (40, 30)), None),
        ("one-pixel.JPEG", plain(1, 1), None),
        ("long.JPEG", plain(40, 2000), None),
        ("narrow.JPEG", plain(2, 3000), Some("too narrow to be scaled")),
        ("bomb.JPEG", with_frame(5, &bomb), Some("30000x30000 pixels is too large")),
        ("bomb-png.JPEG", png(4, 4, (30_000, 30_000)), Some("30000x30000 pixels is too large")),
        ("arithmetic.JPEG", with_frame(1, &[0xc9]), Some("arithmetically coded")),
        ("twelve-bit.JPEG", with_frame(4, &[12]), Some("a JPEG of 12 bits")),
        ("cut.JPEG", whole[..whole.len() - 40].to_vec(), Some("truncated")),
        ("cut-header.JPEG", whole[..100].to_vec(), Some("truncated")),
        ("zero.JPEG", Vec::new(), Some("zero bytes")),
        ("text.JPEG", b"<html>404</html>".to_vec(), Some("not an image")),
        ("webp.JPEG", b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), Some("unsupported image: WebP")),
    ]
}

#[test]
fn each_kind_of_file_is_packed_or_skipped_with_its_reason_in_every_encoding() {
    let place = Folder::imagenet();
    let kinds = kinds();
    for (name, bytes, _) in &kinds {
        place.add(&format!("train/cat/{name}"), bytes);
    }
    let usable = kinds.iter().filter(|(_, _, why)| why.is_none()).count() as u64;
    let mut means = Vec::new();
    for encoding in [Encoding::Jpeg256, Encoding::Original, Encoding::Raw256] {
        let name = encoding.name();
        let report = place.report(name, &Settings { encoding, ..settings() });
        assert_eq!(report.packed.identity.train, 12 + usable);
        assert_eq!(report.skipped.len() as u64, kinds.len() as u64 - usable);
        let names = place.names(name, Split::Train);
        for (file, _, why) in &kinds {
            let shown = format!("train/cat/{file}");
            assert_eq!(names.contains(&shown), why.is_none(), "{file}");
            let skipped = report.skipped.iter().find(|skipped| skipped.file == shown);
            match (why, skipped) {
                (None, None) => {}
                (Some(why), Some(skipped)) => assert!(skipped.why.contains(why), "{skipped:?}"),
                _ => panic!("{file}: {skipped:?}"),
            }
        }
        means.push(place.open(name).mean_image().to_vec());
    }
    assert!(means[0] == means[1] && means[0] == means[2]);
}

#[test]
fn each_kind_of_bad_file_ends_a_packing_that_allows_none_and_is_named() {
    for (name, bytes, why) in kinds() {
        let Some(why) = why else { continue };
        let place = Folder::imagenet();
        place.add(&format!("train/cat/{name}"), bytes);
        let error = place.refusal(&Settings { on_bad_image: OnBadImage::Fail, ..settings() });
        let said = error.to_string();
        assert!(said.contains(name) && said.contains(why), "{said}");
        assert!(error.hint().unwrap().contains("skip-and-log"));
    }
}

#[test]
fn an_orientation_tag_is_ignored_as_other_loaders_do() {
    let place = Folder::imagenet();
    place.add("train/cat/rotated.JPEG", fixture!("rotated.jpg"));
    place.report("out", &Settings { encoding: Encoding::Raw256, ..settings() });
    let at = place.names("out", Split::Train).iter().position(|it| it.contains("rotated"));
    let dataset = place.open("out");
    let wanted = [at.unwrap() as u64];
    let packed = place.runtime.block_on(dataset.read(Split::Train, &wanted)).unwrap();
    // Red grows from left to right in the picture as it is stored.
    let red = |x: usize, y: usize| packed[0].bytes[(y * 256 + x) * 3];
    assert!(red(250, 10) > red(5, 10) + 100, "{} and {}", red(5, 10), red(250, 10));
}
