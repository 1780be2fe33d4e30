//! The net's state as named tensors of rows and bytes: what a checkpoint stores and restores.
//!
//! A checkpoint is read into a second net ([`Net::zeroed`]); only when all of it has been verified
//! does [`Net::adopt`] copy it over, so a bad checkpoint never leaves a net half old, half new.

use std::ops::Range;

use tch::Tensor;

use super::net::shape;
use super::{ModelError, Net, Result, host};

impl Net {
    /// Names and shapes of the state: all weights, then the momentum of each (`NAME.momentum`), then
    /// the running statistics of batch normalisation.
    pub fn state_specs(&self) -> Vec<(String, Vec<usize>)> {
        let parameters = self.spec.parameters();
        let momentum = parameters.iter().map(|p| (format!("{}.momentum", p.name), p.shape.clone()));
        let weights = parameters.iter().map(|p| (p.name.clone(), p.shape.clone()));
        let statistics = self.spec.statistics().into_iter();
        weights
            .chain(momentum)
            .chain(statistics.map(|(name, length)| (name, vec![length])))
            .collect()
    }

    /// Rows (along the first dimension) of one tensor of the state, as little-endian f32.
    ///
    /// # Errors
    /// [`ModelError::Rows`] if there is no such tensor or row.
    pub fn read_rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<u8>> {
        let view = narrow(self.state_tensor(tensor), tensor, &rows)?;
        let mut values = vec![0f32; view.numel()];
        view.f_contiguous()?.f_copy_data(&mut values, view.numel())?;
        Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Shows rows of one tensor of the state, as little-endian f32, without a copy where they lie in
    /// host memory.
    ///
    /// # Errors
    /// As [`Net::read_rows`].
    pub fn look_at_rows<T>(
        &self,
        tensor: usize,
        rows: Range<usize>,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let view = narrow(self.state_tensor(tensor), tensor, &rows)?;
        match host::values::<f32>(&view).filter(|_| cfg!(target_endian = "little")) {
            Some(values) => Ok(look(bytemuck::cast_slice(values))),
            None => Ok(look(&self.read_rows(tensor, rows)?)),
        }
    }

    /// Writes rows of one tensor of the state; the reverse of [`Net::read_rows`].
    ///
    /// # Errors
    /// [`ModelError::Rows`] if there is no such tensor or row, [`ModelError::Size`] if the bytes
    /// are not exactly those rows; nothing is written then.
    pub fn write_rows(&mut self, tensor: usize, rows: Range<usize>, bytes: &[u8]) -> Result<()> {
        let mut view = narrow(self.state_tensor(tensor), tensor, &rows)?;
        if bytes.len() != view.numel() * 4 {
            let (expected, actual) = (view.numel(), bytes.len() / 4);
            return Err(ModelError::Size { what: "rows of the state", expected, actual });
        }
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
        let fresh = Tensor::f_from_slice(&values)?.f_view(view.size().as_slice())?;
        tch::no_grad(|| view.f_copy_(&fresh))?;
        if let Some(rounded) = self.rounded.as_ref().and_then(|all| all.get(tensor)) {
            let mut view = narrow(Some(rounded), tensor, &rows)?;
            tch::no_grad(|| view.f_copy_(&fresh))?;
        }
        Ok(())
    }

    /// Takes over the whole state of another net of the same shape, in place: lanes that share
    /// the weights see it.
    ///
    /// # Errors
    /// [`ModelError::Spec`] if the nets differ; nothing is written then.
    pub fn adopt(&mut self, staged: &Self) -> Result<()> {
        if self.spec != staged.spec {
            let what = "the staged state belongs to another net".to_owned();
            return Err(ModelError::Spec { what });
        }
        let own = self.weights.iter_mut().chain(&mut self.momentum).chain(&mut self.statistics);
        let new = staged.weights.iter().chain(&staged.momentum).chain(&staged.statistics);
        tch::no_grad(|| -> Result<()> {
            own.zip(new).try_for_each(|(own, new)| own.f_copy_(new).map(drop))?;
            Ok(())
        })?;
        (0..self.weights.len()).try_for_each(|index| self.round(index))
    }

    /// The blake3 hash of all weights and momentum: one number for "the same bits".
    ///
    /// # Errors
    /// If the device fails.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (index, (name, shape)) in self.state_specs().iter().enumerate() {
            hasher.update(name.as_bytes());
            hasher.update(&self.read_rows(index, 0..shape[0])?);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn state_tensor(&self, index: usize) -> Option<&Tensor> {
        self.weights.iter().chain(&self.momentum).chain(&self.statistics).nth(index)
    }
}

fn narrow(found: Option<&Tensor>, tensor: usize, rows: &Range<usize>) -> Result<Tensor> {
    let outside = || ModelError::Rows { tensor, start: rows.start, end: rows.end };
    let found = found.ok_or_else(outside)?;
    if rows.start > rows.end || shape(&[rows.end])[0] > found.size()[0] {
        return Err(outside());
    }
    Ok(found.f_narrow(0, rows.start as i64, rows.len() as i64)?)
}

#[cfg(test)]
mod tests {
    use convoy_common::config::Init;

    use super::*;
    use crate::model::net::tests::settings;
    use crate::model::{Device, Spec};

    fn net(seed: u64) -> Net {
        let spec = Spec::narrowed(2, 10, 16).unwrap();
        Net::initialised(spec, &settings(Init::Kaiming), seed, Device::CPU).unwrap()
    }

    #[test]
    fn a_state_copied_row_by_row_has_the_same_digest() {
        let source = net(1);
        let mut target = Net::zeroed(source.spec().clone(), Device::CPU).unwrap();
        for (index, (_, shape)) in source.state_specs().iter().enumerate() {
            for start in (0..shape[0]).step_by(5) {
                let rows = start..(start + 5).min(shape[0]);
                let bytes = source.read_rows(index, rows.clone()).unwrap();
                target.write_rows(index, rows, &bytes).unwrap();
            }
        }
        assert_eq!(source.digest().unwrap(), target.digest().unwrap());
        assert_ne!(source.digest().unwrap(), net(2).digest().unwrap());
    }

    #[test]
    fn rows_that_are_looked_at_are_those_that_are_read() {
        let net = net(1);
        for (index, (_, shape)) in net.state_specs().iter().enumerate() {
            let rows = shape[0] / 3..shape[0];
            let read = net.read_rows(index, rows.clone()).unwrap();
            assert!(net.look_at_rows(index, rows, |bytes| bytes == read).unwrap());
        }
        assert!(net.look_at_rows(32, 0..1, <[u8]>::len).is_err());
    }

    #[test]
    fn weights_come_before_momentum() {
        let specs = net(1).state_specs();
        assert_eq!(specs.len(), 32);
        assert_eq!(specs[0].0, "conv1.weight");
        assert_eq!(specs[15], ("fc8.bias".to_owned(), vec![10]));
        assert_eq!(specs[16].0, "conv1.weight.momentum");
    }

    #[test]
    fn adopting_keeps_the_tensors_that_lanes_share() {
        let (mut own, staged) = (net(1), net(2));
        let shared = own.weights[0].shallow_clone();
        own.adopt(&staged).unwrap();
        assert!(shared.equal(&staged.weights[0]));
        assert_eq!(own.digest().unwrap(), staged.digest().unwrap());
    }

    #[test]
    fn rows_that_are_not_there_are_refused() {
        let mut net = net(1);
        assert!(matches!(net.read_rows(32, 0..1), Err(ModelError::Rows { .. })));
        assert!(matches!(net.read_rows(15, 0..11), Err(ModelError::Rows { .. })));
        assert!(matches!(net.write_rows(15, 0..2, &[0; 7]), Err(ModelError::Size { .. })));
    }
}
