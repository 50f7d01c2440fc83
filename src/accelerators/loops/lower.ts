export { lower, unsupported } from './plain/lower.ts';
