//! The plan of a problem: how it is cut up, and the length of every buffer.
//!
//! Input: a shape, the kernels' tile, the terms. Nothing here depends on the number of threads, and so
//! neither do the bits of a result.

use crate::engine::kernels::Kernels;
use crate::engine::packed::DEPTH;
use crate::engine::problem::{Region, Shape};
use crate::engine::terms::rule::Terms;

/// A block has about so many rows, and at least so many tiles, which together ask for all of the panel
/// that comes next. Where there are no more than so many rows in all, blocks are small all the same,
/// so that threads find equal shares.
const BLOCK_ROWS: usize = 48;
const BLOCK_TILES: usize = 8;
const FEW_ROWS: usize = 1024;
/// A strip has as many blocks as fit into so many bytes, which the third cache holds, and at least so many.
const STRIP_BYTES: usize = 16 << 20;
const LEAST_BLOCKS: usize = 8;

/// At least one strip in so many must be kept, or none is.
const WORTHWHILE: usize = 8;

/// How a problem is cut up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) terms: Terms,
    /// Rows and columns of a tile, and numbers in a vector.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) lanes: usize,
    /// Rows of a block, which one thread works on. A multiple of a tile's height.
    pub(crate) block_rows: usize,
    /// Blocks of a strip.
    pub(crate) strip_blocks: usize,
    /// Panels of columns, each as wide as a tile.
    pub(crate) panels: usize,
    /// Panels of a chunk of columns, which a block goes through at a time.
    pub(crate) chunk_panels: usize,
    /// Panels of features, as the left and as the right operand of a product.
    pub(crate) left_feature_panels: usize,
    pub(crate) right_feature_panels: usize,
}

impl Plan {
    pub(crate) fn new<R>(kernels: &Kernels<R>, shape: Shape, terms: Terms) -> Self {
        let Kernels { height, width, lanes, .. } = *kernels;
        let least_tiles = if shape.rows > FEW_ROWS { BLOCK_TILES } else { 1 };
        let block_rows = height * (BLOCK_ROWS / height).max(least_tiles);
        let panels = shape.columns.div_ceil(width);
        let blocks = shape.rows.div_ceil(block_rows);
        let block_bytes = block_rows * panels * width * size_of::<R>();
        let strips = blocks.div_ceil((STRIP_BYTES / block_bytes.max(1)).max(LEAST_BLOCKS));
        // Strips of one size, a multiple of four so that threads find equal shares.
        let strip_blocks =
            if strips == 1 { blocks } else { blocks.div_ceil(strips).next_multiple_of(4) };
        Self {
            shape,
            terms,
            height,
            width,
            lanes,
            block_rows,
            strip_blocks,
            panels,
            // Two chunks at least, so that two threads can pack them.
            chunk_panels: (DEPTH / width).max(1).min(panels.div_ceil(2)).max(1),
            left_feature_panels: shape.dim.div_ceil(height),
            right_feature_panels: shape.dim.div_ceil(width),
        }
    }

    pub(crate) fn strip_rows(&self) -> usize {
        self.block_rows * self.strip_blocks
    }

    pub(crate) fn strips(&self) -> usize {
        self.shape.rows.div_ceil(self.strip_rows())
    }

    pub(crate) fn chunks(&self) -> usize {
        self.panels.div_ceil(self.chunk_panels)
    }

    /// The first panel of columns that rows from `row` on are compared with. `row` is the first of a
    /// block.
    pub(crate) fn first_panel(&self, row: usize) -> usize {
        match self.shape.region {
            Region::Triangle { .. } => row / self.width,
            Region::Rectangle { .. } | Region::NegativesOnly { .. } | Region::Square { .. } => 0,
        }
    }

    /// Numbers of one panel of a block, `[block rows, width]`.
    pub(crate) fn panel_len(&self) -> usize {
        self.block_rows * self.width
    }

    /// Numbers of one block's part of the matrix, `[panels, block rows, width]`.
    pub(crate) fn block_len(&self, strip: usize) -> usize {
        let panels = if self.shape.whole_strips {
            self.panels - self.first_panel(strip * self.strip_rows())
        } else {
            self.chunk_panels
        };
        panels * self.panel_len()
    }

    /// Numbers of a strip's part of the matrix, `[blocks, panels, block rows, width]`.
    pub(crate) fn strip_len(&self, strip: usize) -> usize {
        let rows = self.shape.rows - strip * self.strip_rows();
        self.strip_blocks.min(rows.div_ceil(self.block_rows)) * self.block_len(strip)
    }

    /// How many strips, from the first on, have exponentials that fit into `bytes` together; none
    /// where those would be so few that it is not worth their memory.
    pub(crate) fn kept<R>(&self, bytes: usize) -> usize {
        let mut left = bytes / size_of::<R>();
        let fits = |&strip: &usize| {
            let fits = self.strip_len(strip) <= left;
            left -= if fits { self.strip_len(strip) } else { 0 };
            fits
        };
        let kept = (0..self.strips()).take_while(fits).count();
        if kept * WORTHWHILE < self.strips() { 0 } else { kept }
    }

    /// Numbers of one partial sum for each row of a block: the lanes of a vector or, by label, a tile's
    /// width.
    pub(crate) fn partial_len(&self) -> usize {
        if self.terms == Terms::ByLabel { self.width } else { self.lanes }
    }

    /// Numbers of a block's partial sums within a chunk, `[terms, block rows, partial]`.
    pub(crate) fn partial_sums_len(&self) -> usize {
        let sums = if self.terms.two() { 2 } else { 1 };
        sums * self.block_rows * self.partial_len()
    }

    /// Numbers of a copy of a panel, where two powers or a guide need one.
    pub(crate) fn panel_copy_len(&self) -> usize {
        let needed = matches!(self.terms, Terms::Powers(_)) || self.shape.guide_dim > 0;
        if needed { self.panel_len() } else { 0 }
    }

    /// Numbers of a packed block of a guide's rows, `[block rows / height, guide dim, height]`.
    pub(crate) fn guide_rows_len(&self) -> usize {
        self.block_rows * self.shape.guide_dim
    }

    /// Numbers of a packed block of rows, `[block rows / height, dim, height]`.
    pub(crate) fn rows_len(&self) -> usize {
        self.block_rows * self.shape.dim
    }

    /// Numbers of a block's row gradients, `[right feature panels, block rows, width]`.
    pub(crate) fn row_gradients_len(&self) -> usize {
        self.right_feature_panels * self.panel_len()
    }

    /// Numbers of a block's rows as the left operand of the columns' gradient,
    /// `[left feature panels, block rows, height]`.
    pub(crate) fn row_features_len(&self) -> usize {
        self.left_feature_panels * self.block_rows * self.height
    }

    /// Numbers of a chunk of columns as the right operand of the logits,
    /// `[chunk panels, dim, width]`.
    pub(crate) fn chunk_columns_len(&self) -> usize {
        self.chunk_panels * self.shape.dim * self.width
    }

    /// Numbers of a chunk of columns as the right operand of the rows' gradient,
    /// `[right feature panels, chunk columns, width]`.
    pub(crate) fn chunk_features_len(&self) -> usize {
        self.right_feature_panels * self.chunk_panels * self.width * self.width
    }

    /// Panels of columns whose gradient is asked for.
    pub(crate) fn gradient_panels(&self) -> usize {
        self.shape.gradient_columns.div_ceil(self.width)
    }

    /// Numbers of the gradient of one panel of columns, `[features, width]`.
    pub(crate) fn column_gradient_len(&self) -> usize {
        self.left_feature_panels * self.height * self.width
    }

    /// Bytes of every buffer together, where the exponentials of `kept` strips are kept.
    pub(crate) fn bytes<R>(&self, kept: usize) -> usize {
        let Shape { rows, columns, guide_dim, .. } = self.shape;
        let matrix: usize = (0..self.strips().min(kept + 1)).map(|s| self.strip_len(s)).sum();
        let of_block = self.rows_len()
            + self.row_gradients_len()
            + self.row_features_len()
            + self.partial_sums_len()
            + self.panel_copy_len()
            + self.guide_rows_len()
            + 5 * self.block_rows;
        let packed = self.chunks() * (self.chunk_columns_len() + self.chunk_features_len())
            + self.panels * guide_dim * self.width
            + self.gradient_panels() * self.column_gradient_len();
        let sums = if self.terms.two() { 2 } else { 1 };
        let column_sums = sums * (self.strip_blocks + 1) * self.panels * self.width;
        // Lengths, sums, outcomes, factors, ids, a pointer to each row, and what threads keep.
        let rest = 320 * (rows + columns) + (1 << 16);
        (matrix + self.strip_blocks * of_block + packed) * size_of::<R>()
            + column_sums * size_of::<f64>()
            + rest
    }
}
