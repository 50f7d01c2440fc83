/** Graphs with quantized matrices, whose contents are made up. */
import { panelsOf } from '../../src/kernels/panels.ts';
import type { QuantizedType } from '../../src/kernels/quantized.ts';
import { quantizedShape } from '../../src/kernels/quantized.ts';
import type { Graph, QuantizedRows } from '../../src/tensor/graph.ts';
import type { Tensor } from '../../src/tensor/tensor.ts';
import { elementCount } from '../../src/tile/ir.ts';

export class QuantizedGraph {
  readonly g: Graph;
  readonly type: QuantizedType;
  /** Values of the parameters by name. */
  readonly values: Record<string, readonly number[]> = {};

  constructor(g: Graph, type: QuantizedType) {
    this.g = g;
    this.type = type;
  }
  matrix(name: string, rows: number, columns: number): { readonly words: Tensor; readonly scales: Tensor } {
    const { words, groups } = quantizedShape(this.type, rows);
    const { width, count } = panelsOf(columns);
    const shapes = { words: [count, words, width], scales: [count, groups, width] };
    const fill = (part: keyof typeof shapes, value: (i: number) => number) => {
      this.values[`${name}.${part}`] = Array.from({ length: elementCount(shapes[part]) }, (_, i) => value(i));
    };
    fill('words', (i) => Math.imul(i + 17, 0x9e3779b1));
    // Exact in bf16, and small enough for sums near 1.
    fill('scales', (i) => (1 + (i % 5)) / (this.type === 'int8' ? 4096 : 256));
    return {
      words: this.g.parameter(`${name}.words`, 'i32', shapes.words),
      scales: this.g.parameter(`${name}.scales`, 'bf16', shapes.scales),
    };
  }
  rows(x: Tensor): QuantizedRows {
    return this.g.quantizeRows(x, quantizedShape(this.type, x.shape[1]).group);
  }
  /** x times the matrix `name`. */
  product(x: Tensor, name: string, columns: number): Tensor {
    const matrix = this.matrix(name, x.shape[1], columns);
    return this.g.quantizedMatmul(this.rows(x), matrix, { type: this.type, columns });
  }
  /** What a layer does, without attention: three products of a norm, a residual, and SwiGLU between products. */
  layer(x: Tensor): readonly Tensor[] {
    const { g } = this;
    const [, hidden] = x.shape;
    const norm = (name: string, y: Tensor) => g.rmsNorm(y, g.parameter(name, 'f32', [hidden]), 1e-3);
    const h = norm('norm', x);
    const [q, k] = [this.product(h, 'q', 64), this.product(h, 'k', 7)];
    const rotated = g.exp(q);
    const v = this.product(h, 'v', 40);
    const y = g.add(x, this.product(rotated, 'o', hidden));
    const m = norm('post', y);
    const inner = g.swiglu(this.product(m, 'gate', 160), this.product(m, 'up', 160));
    return [k, v, g.add(y, this.product(inner, 'down', hidden))];
  }
}
