//! What the index of a data set of ImageNet's size holds in memory, by the allocator's own count.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(unsafe_code, reason = "an allocator that counts is one that forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::store::Store;

/// Bytes that are allocated and not yet freed.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `at` came from the same allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const IMAGENET: u64 = 1_281_167;
const CLASSES: u64 = 1000;

async fn pack(store: Store) {
    // Some 400 shards.
    let mut writer = PackWriter::start(store, Sizes { shard: 16 + 3200 * 16 }).await.unwrap();
    for image in 0..IMAGENET {
        let label = (image % CLASSES) as u16;
        writer.append(Split::Train, label, "n01440764_10026.JPEG", &[1; 16]).await.unwrap();
    }
    let classes: Vec<String> = (0..CLASSES).map(|class| format!("n{class:08}")).collect();
    let pixels = PixelStatistics::default().summary();
    assert_eq!(writer.finish(&classes, &pixels).await.unwrap().shards, 401);
}

#[test]
fn an_index_of_imagenets_size_takes_at_most_24_bytes_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().display().to_string()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(pack(store.clone()));
    // Once before, so that what the runtime and the store keep for themselves is there.
    drop(runtime.block_on(Dataset::open(store.clone())).unwrap());
    let before = LIVE.load(Ordering::Relaxed);
    let dataset = runtime.block_on(Dataset::open(store)).unwrap();
    let held = LIVE.load(Ordering::Relaxed) - before;
    assert_eq!(dataset.len(Split::Train), IMAGENET);
    assert_eq!(dataset.label(Split::Train, IMAGENET - 1), ((IMAGENET - 1) % CLASSES) as u16);
    let an_image = held as f64 / IMAGENET as f64;
    assert!((18.0..=24.0).contains(&an_image), "{an_image} bytes an image");
}
