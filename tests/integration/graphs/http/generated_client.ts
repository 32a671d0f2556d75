// Uses the types that openapi-typescript writes from the service's OpenAPI document; test_generated_client.py compiles it.

import createClient from "openapi-fetch";

import type { components, paths } from "./api.ts";

const client = createClient<paths>({ baseUrl: process.argv[2] });

function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`not as expected: ${what}`);
}

const body = { prompt: "pear", seed: 3, width: 64, height: 96, steps: 2 };
const made = await client.POST("/v1/images", { body });
assert(made.response.status === 201, "status of a new image");
const image = (made.data as components["schemas"]["CreatedImages"]).data[0];
assert(image.width === 64 && image.height === 96 && image.parameters?.seed === 3, "parameters");

const path = { image_id: image.image_id };
const content = await client.GET("/v1/images/{image_id}/content", { params: { path }, parseAs: "arrayBuffer" });
assert(content.data && new Uint8Array(content.data)[1] === "P".charCodeAt(0), "PNG");

const regions = await client.GET("/v1/images/{image_id}/regions", { params: { path, query: { as: ["rle"] } } });
assert(regions.data?.data.map((region) => region.region_id).join() === "0,1", "ids of regions");

const listed = await client.GET("/v1/images", {});
assert(listed.data?.data.length === 1 && !listed.data.has_more, "list");

await client.DELETE("/v1/images/{image_id}", { params: { path } });
const gone = await client.GET("/v1/images/{image_id}", { params: { path } });
assert((gone.error as components["schemas"]["Problem"]).code === "image_not_found", "problem");
console.log("all done");
