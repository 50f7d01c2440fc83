/** Graphs as text. */
import { typeText } from '../tile/types.ts';
import type { Graph } from './graph.ts';

/** One line a node: `%3 = matmul(%1, %2) {"transA":false} : f32[4, 8]`. */
export function printGraph(graph: Graph): string {
  return graph.nodes
    .map(({ primitive, attributes, inputs, outputs }) => {
      const shown = Object.entries(attributes).filter(
        ([, value]) => typeof value !== 'function' && !ArrayBuffer.isView(value),
      );
      const rest = shown
        .filter(([name]) => name !== 'type')
        .map(([name, value]) => `${name}: ${name === 'kernel' ? value.name : JSON.stringify(value)}`)
        .join(', ');
      const left = outputs.map((output) => `%${output.id}`).join(', ');
      const args = inputs.map((input) => `%${input.id}`).join(', ');
      const types = outputs.map((output) => typeText(output.type)).join(', ');
      return `${left} = ${primitive}(${args})${rest === '' ? '' : ` {${rest}}`} : ${types}`;
    })
    .join('\n');
}
