/** `tandem devices`: what this machine offers, and what is absent and why. */
import type { Command } from 'commander';
import pc from 'picocolors';
import { listDevices } from '../accelerators/registry.ts';
import { count } from './text.ts';

export function addDevices(program: Command): void {
  program
    .command('devices')
    .description('List the accelerators of this machine, and why others are absent')
    .option(
      '--json',
      'print JSON: an array of { name, available, reason, description, features, threads, memory }',
    )
    .action(async ({ json }: { json?: boolean }) => {
      const probes = await listDevices();
      if (json) {
        const rows = probes.map(({ name, available, reason, info }) => ({
          name,
          available,
          reason,
          description: info?.description ?? null,
          features: info?.features ?? [],
          threads: info?.threads ?? 0,
          memory: info?.memory ?? 0,
        }));
        console.log(JSON.stringify(rows, null, 2));
        return;
      }
      for (const { name, available, reason, info } of probes) {
        if (!available || info === undefined)
          console.log(`${pc.dim('✗')} ${name.padEnd(12)} ${pc.dim(reason)}`);
        else {
          const memory = `${count(info.memory / 2 ** 30)} GiB`;
          console.log(
            `${pc.green('✓')} ${name.padEnd(12)} ${info.description}, ${info.threads} thread${info.threads === 1 ? '' : 's'}, ${memory}`,
          );
          console.log(`  ${''.padEnd(12)} ${pc.dim(info.features.join(' '))}`);
        }
      }
    });
}
