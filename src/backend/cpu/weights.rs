//! Weights, mapped from the files.

use std::collections::HashMap;

use crate::ops::Matrix;

/// The weights of a model as the CPU reads them, by the names of their tensors.
#[derive(Debug, Default)]
pub struct Weights {
    pub matrices: HashMap<Vec<String>, Matrix>,
    pub vectors: HashMap<Vec<String>, Vec<f32>>,
}

impl Weights {
    /// The matrix of several tensors, one below the other.
    pub fn matrix(&self, names: &[String]) -> Matrix {
        if let Some(matrix) = self.matrices.get(names) {
            return matrix.clone();
        }
        let part = |name: &String| self.matrices[std::slice::from_ref(name)].parts().to_vec();
        Matrix::new(names.iter().flat_map(part).collect())
    }
}
