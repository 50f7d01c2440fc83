/** `tandem devices`: what this machine offers, and what is absent and why. */
import type { Command } from 'commander';
import pc from 'picocolors';
import type { DeviceProbe } from '../accelerators/device.ts';
import { listDevices } from '../accelerators/registry.ts';
import { count } from './text.ts';

/** An accelerator for people: what it is, or why it is absent. */
export function deviceLines({ name, available, reason, info }: DeviceProbe): string[] {
  if (!available || info === undefined) return [`${pc.dim('✗')} ${name.padEnd(12)} ${pc.dim(reason)}`];
  const threads = `${info.threads} thread${info.threads === 1 ? '' : 's'}`;
  const line = `${pc.green('✓')} ${name.padEnd(12)} ${info.description}, ${threads}, ${count(info.memory / 2 ** 30)} GiB`;
  return info.features.length === 0
    ? [line]
    : [line, `  ${''.padEnd(12)} ${pc.dim(info.features.join(' '))}`];
}

export function addDevices(program: Command): void {
  program
    .command('devices')
    .description('List the accelerators of this machine, and why others are absent')
    .option(
      '--json',
      'print JSON: an array of { name, available, reason, description, features, threads, memory, schedules }',
    )
    .addHelpText('after', '\nExamples:\n  $ tandem devices\n  $ tandem devices --json')
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
          schedules: info?.schedules ?? null,
        }));
        console.log(JSON.stringify(rows, null, 2));
        return;
      }
      for (const probe of probes) {
        for (const line of deviceLines(probe)) console.log(line);
        const schedules = probe.info?.schedules;
        if (schedules !== undefined) console.log(`  ${''.padEnd(12)} blocks of products: ${schedules}`);
      }
    });
}
