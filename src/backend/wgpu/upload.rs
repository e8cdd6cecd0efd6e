//! Copies weights and tables to device memory, packed in segments, so that the host never holds a second copy.

use std::collections::HashMap;

use crate::backend::wgpu::device::Gpu;
use crate::error::{Error, Result};
use crate::plan::StoredWeight;
use crate::tensor::Tensor;
use crate::work::Plane;
use crate::work::layout::WeightLayout;
use crate::work::pack::{self, Packer};

/// A stored matrix or vector on the device.
pub struct GpuWeight {
    /// Codes and scales of each chunk; a vector has one chunk and no scales.
    chunks: Vec<(wgpu::Buffer, Option<wgpu::Buffer>)>,
}

impl GpuWeight {
    /// The buffer of a plane; a vector is the codes of its only chunk.
    pub fn plane(&self, chunk: usize, plane: Plane) -> &wgpu::Buffer {
        let (codes, scales) = &self.chunks[chunk];
        match plane {
            Plane::Codes => codes,
            Plane::Scales => scales.as_ref().expect("a matrix has scales"),
        }
    }
}

/// The stored weights of a model on one device, by the names of their tensors.
#[derive(Default)]
pub struct Uploads {
    pub weights: HashMap<Vec<String>, GpuWeight>,
    pub tables: HashMap<String, wgpu::Buffer>,
    /// Bytes of device memory for weights, padding included; tables do not count as weights.
    pub bytes: u64,
    /// Bytes written since the queue was last drained.
    pending: u64,
}

/// Bytes of staging memory that may be in use before the queue is drained.
const MOST_PENDING: u64 = 4 << 20;

impl Uploads {
    /// Uploads a stored weight unless it is already on the device. `take` returns its tensors.
    pub async fn weight(
        &mut self,
        gpu: &Gpu,
        stored: &StoredWeight,
        max_binding: u64,
        take: impl Fn(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<()> {
        if self.weights.contains_key(&stored.names) {
            return Ok(());
        }
        let Some(dtype) = stored.dtype else {
            let mut values = Vec::new();
            for (name, shape) in stored.tensors() {
                values.extend(take(name, &shape)?.to_f32());
            }
            values.resize(values.len().next_multiple_of(4), 0.0);
            let buffer = self.buffer(gpu, &stored.names.join(" + "), values.len() as u64 * 4)?;
            self.write(gpu, &buffer, 0, bytemuck::cast_slice(&values)).await?;
            self.weights.insert(stored.names.clone(), GpuWeight { chunks: vec![(buffer, None)] });
            return Ok(());
        };

        let mut tensors = Vec::new();
        for (name, shape) in stored.tensors() {
            tensors.push(take(name, &shape)?);
        }
        let row = |mut r: usize| {
            for tensor in &tensors {
                if r < tensor.rows() {
                    return tensor.row(r);
                }
                r -= tensor.rows();
            }
            unreachable!("the layout covers the rows of the matrix")
        };
        let layout = WeightLayout::new(dtype, stored.rows.iter().sum(), stored.cols, max_binding);
        let label = stored.names.join(" + ");
        let mut chunks = Vec::new();
        for rows in &layout.chunks {
            let sizes = pack::sizes(dtype, rows.len(), stored.cols);
            let codes = self.buffer(gpu, &label, sizes.0 as u64 * 4)?;
            let scales = self.buffer(gpu, &label, sizes.1 as u64 * 4)?;
            let mut packer = Packer::new(dtype, stored.cols, rows.clone(), row);
            while let Some((at, words)) = packer.codes() {
                self.write(gpu, &codes, at as u64 * 4, bytemuck::cast_slice(words)).await?;
            }
            self.write(gpu, &scales, 0, bytemuck::cast_slice(&packer.scales())).await?;
            chunks.push((codes, Some(scales)));
        }
        tensors.iter().for_each(|tensor| tensor.bytes.release());
        self.weights.insert(stored.names.clone(), GpuWeight { chunks });
        Ok(())
    }

    /// Uploads a table unless it is already on the device.
    pub async fn table(&mut self, gpu: &Gpu, name: &str, data: &[f32]) -> Result<()> {
        if !self.tables.contains_key(name) {
            let size = (data.len() as u64 * 4).next_multiple_of(16);
            let buffer = storage(gpu, name, size, wgpu::BufferUsages::COPY_DST)?;
            self.write(gpu, &buffer, 0, bytemuck::cast_slice(data)).await?;
            self.tables.insert(name.to_string(), buffer);
        }
        Ok(())
    }

    /// Waits for all writes.
    pub async fn finish(&mut self, gpu: &Gpu) -> Result<()> {
        self.pending = 0;
        gpu.wait(gpu.submit_to_wait([])).await
    }

    async fn write(&mut self, gpu: &Gpu, buffer: &wgpu::Buffer, at: u64, bytes: &[u8]) -> Result<()> {
        gpu.queue.write_buffer(buffer, at, bytes);
        self.pending += bytes.len() as u64;
        if self.pending > MOST_PENDING {
            self.finish(gpu).await?;
        }
        Ok(())
    }

    /// A buffer for a weight.
    fn buffer(&mut self, gpu: &Gpu, label: &str, size: u64) -> Result<wgpu::Buffer> {
        self.bytes += size;
        storage(gpu, label, size, wgpu::BufferUsages::COPY_DST)
    }
}

/// A storage buffer of `size` bytes.
pub fn storage(gpu: &Gpu, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
    let limit = gpu.device.limits().max_buffer_size;
    if size > limit {
        return Err(Error::out_of_memory(format!(
            "{label} needs {size} bytes in one buffer, {} allows {limit}; take a shorter --context or smaller --weights",
            gpu.profile.name
        )));
    }
    let buffer = gpu.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: wgpu::BufferUsages::STORAGE | usage,
        mapped_at_creation: false,
    });
    gpu.check()?;
    Ok(buffer)
}
