//! What the parts of the work on images cost, one after the other on one thread.
//!
//! The pipeline does them all at once on several threads, which says how fast it is but not why.

use std::time::{Duration, Instant};

use convoy_common::dataset::Encoded;

use super::augment::image_values;
use super::error::{DataError, Unusable};
use super::source::Source;
use super::workbench::{Work, Workbench};
use super::{Request, Settings};

/// Time spent on so many images.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) images: u64,
    pub(crate) decode: Duration,
    pub(crate) resize: Duration,
    pub(crate) augment: Duration,
}

impl Spent {
    /// Adds the work on the images of a request, which the source gave for it.
    ///
    /// # Errors
    /// [`DataError::Image`] with the first image that cannot be used.
    pub(crate) fn add(
        &mut self,
        source: &dyn Source,
        settings: &Settings,
        workbench: &mut Workbench,
        (request, images): (&Request, &[Encoded]),
    ) -> Result<(), DataError> {
        let recipe = settings.recipe(source);
        let mut out = vec![0.0; image_values(request.purpose.side(recipe.side))];
        for (image, sample) in images.iter().zip(&request.samples) {
            let treatment = recipe.treatment(request, sample.index);
            let mut since = Instant::now();
            let done = |work| {
                let now = Instant::now();
                *self.of(work) += now - since;
                since = now;
            };
            let written = workbench.write(image, treatment, source.mean_image(), &mut out, done);
            written.map_err(|reason: Unusable| DataError::Image {
                image: source.name(request.purpose.split(), sample.index),
                epoch: request.epoch,
                step: request.step,
                source: reason,
            })?;
            self.images += 1;
        }
        Ok(())
    }

    fn of(&mut self, work: Work) -> &mut Duration {
        match work {
            Work::Decode => &mut self.decode,
            Work::Resize => &mut self.resize,
            Work::Augment => &mut self.augment,
        }
    }

    /// Of a decode thread, for one image.
    pub(crate) fn an_image(&self) -> Duration {
        let all = self.decode + self.resize + self.augment;
        all.checked_div(u32::try_from(self.images).unwrap_or(u32::MAX)).unwrap_or_default()
    }
}
