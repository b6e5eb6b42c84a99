// Text back to voxels: the other half of encoding.py.

async function inflated(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Codes of an image: low bytes, then high bytes, of differences along each row modulo 2^16, whose sign is the
// lowest bit.
function undelta(planes, width) {
  const count = planes.length / 2;
  const codes = new Uint16Array(count);
  for (let start = 0; start < count; start += width) {
    let code = 0;
    for (let i = start; i < start + width; i++) {
      const folded = planes[i] + (planes[count + i] << 8);
      code = (code + ((folded >> 1) ^ -(folded & 1))) & 0xffff;
      codes[i] = code;
    }
  }
  return codes;
}

async function decodeLayer(layer, [width, height]) {
  const bytes = await inflated(layer.data);
  const codes = layer.bits === 16 ? undelta(bytes, width) : bytes;
  const area = width * height;
  return {
    ...layer,
    data: null,
    slice: (k) => codes.subarray(k * area, (k + 1) * area),
    value: (x, y, k) => layer.offset + layer.scale * codes[k * area + y * width + x],
  };
}

async function decodeLayers(scene) {
  const names = Object.keys(scene.layers);
  const layers = await Promise.all(names.map((name) => decodeLayer(scene.layers[name], scene.size)));
  return new Map(names.map((name, i) => [name, layers[i]]));
}
