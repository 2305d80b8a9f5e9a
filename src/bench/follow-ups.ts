// Further questions of a sample: what the engine is asked, and how its answers stand in the row.
import type { Completion, FollowUp } from "../engine/protocol.ts";
import type { PreparedSample, Row } from "./rows.ts";

/** part of a request; nothing where a sample has one question */
export function followUpRequest({ followUps, maxNewTokens }: PreparedSample): { followUps?: FollowUp[] } {
  if (followUps === undefined) return {};
  return { followUps: followUps.map(({ id, ids }) => ({ id, ids, maxNewTokens })) };
}

/** part of a row, with the score of each answer */
export function followUpRows(
  { followUps = [], score }: PreparedSample,
  { followUps: answers = [] }: Completion,
  decode: (ids: number[]) => string,
): Pick<Row, "follow_ups"> {
  if (followUps.length === 0) return {};
  const rows = answers.map(({ ids, feedMs, decodeMs }, i) => {
    const { id, refs } = followUps[i]!;
    const prediction = decode(ids);
    return { id, prediction, refs, score: score(prediction, refs), feed_ms: feedMs, decode_ms: decodeMs };
  });
  return { follow_ups: rows };
}

/** time spent on further questions */
export function followUpMs(completions: readonly Completion[]): number {
  const all = completions.flatMap(({ followUps = [] }) => followUps);
  return all.reduce((sum, { feedMs, decodeMs }) => sum + feedMs + decodeMs, 0);
}
