/** Small matrices transposed from memory to memory. */
import type { Instr } from '../loops/ir.ts';
import type { FunctionBody } from './body.ts';

/** [address] to [the first `count` (1 to 4) lanes there, zeros above]; the address is in temporary 0. */
function emitLoadLanes(body: FunctionBody, offset: number, count: number): void {
  const { code } = body;
  code.get(body.temporary('i32', 0));
  if (count === 4) code.vectorAccess('v128.load', offset);
  else if (count === 1) code.vectorAccess('v128.load32_zero', offset);
  else code.vectorAccess('v128.load64_zero', offset);
  if (count !== 3) return;
  const loaded = body.temporary('v128', 0);
  code
    .set(loaded)
    .get(body.temporary('i32', 0))
    .get(loaded)
    .laneAccess('v128.load32_lane', offset + 8, 2);
}

function emitStoreLanes(body: FunctionBody, offset: number, count: number, source: number): void {
  const { code } = body;
  const address = body.temporary('i32', 0);
  code.get(address).get(source);
  if (count === 4) code.vectorAccess('v128.store', offset);
  else if (count === 1) code.laneAccess('v128.store32_lane', offset, 0);
  else code.laneAccess('v128.store64_lane', offset, 0);
  if (count === 3)
    code
      .get(address)
      .get(source)
      .laneAccess('v128.store32_lane', offset + 8, 2);
}

/** Transposes rows of a matrix in memory, at most 4 x 4, to columns elsewhere. */
export function emitTranspose(body: FunctionBody, instr: Extract<Instr, { readonly o: 'vtranspose' }>): void {
  const { code } = body;
  const { from, fromStride, to, toStride, rows, columns } = instr;
  if (!(rows >= 1 && rows <= 4 && columns >= 1 && columns <= 4)) {
    throw new RangeError(`vtranspose of ${rows} x ${columns}: at most 4 x 4`);
  }
  const address = body.temporary('i32', 0);
  const row = [1, 2, 3, 4].map((number) => body.temporary('v128', number));
  const half = [5, 6, 7, 8].map((number) => body.temporary('v128', number));
  let offset = body.address(from);
  code.set(address);
  row.forEach((local, r) => {
    if (r > 0) code.get(address).i32(fromStride).plain('i32.add').set(address);
    if (r < rows) emitLoadLanes(body, offset, columns);
    else code.v128Splat(0);
    code.set(local);
  });
  code.get(row[0]).get(row[1]).shuffle([0, 4, 1, 5]).set(half[0]);
  code.get(row[2]).get(row[3]).shuffle([0, 4, 1, 5]).set(half[1]);
  code.get(row[0]).get(row[1]).shuffle([2, 6, 3, 7]).set(half[2]);
  code.get(row[2]).get(row[3]).shuffle([2, 6, 3, 7]).set(half[3]);
  offset = body.address(to);
  code.set(address);
  for (let column = 0; column < columns; column++) {
    const pair = column < 2 ? 0 : 2;
    if (column > 0) code.get(address).i32(toStride).plain('i32.add').set(address);
    code.get(half[pair]).get(half[pair + 1]);
    code.shuffle(column % 2 === 0 ? [0, 1, 4, 5] : [2, 3, 6, 7]).set(row[0]);
    emitStoreLanes(body, offset, rows, row[0]);
  }
}
