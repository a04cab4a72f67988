"""The latent store: a dataset of images as latents on disk, or behind an fsspec URL.

Layout, version 1
-----------------
The source's images are numbered as it lists them. *Part* k holds images k * part_images up to (k + 1) * part_images. A
*shard* holds those images of one part whose latents have one shape; with native resolution, all of the part. So what
is in a shard follows from the source and the settings alone. A part is complete when its record exists, which is
written last; the store is complete when its manifest exists, which is written last of all.

    STORE/
      settings.json             what the store is: VAE (fingerprint, config), preprocessing, type of the values, source,
                                images to a part. The first object that is written
      shards/NAME.safetensors   latents of one shard
      index/NAME.parquet        one row for each row of the shard of that NAME, in the same order
      parts/000012.json         record of part 12: its shards with their hashes, its statistics, what it skipped
      writers/WRITER.json       who is at work, and on which parts; means nothing in a complete store
      skipped.jsonl             {"id", "reason"} of each image that was skipped, a line each, in the source's order
      manifest.json             settings, versions, statistics, the list of all shards

NAME is PART-HEIGHTxWIDTH-DIGEST: the part in six digits or more; the sides of the latents, or `native`; the first
eight hexadecimal digits of the shard's `digest`, which covers both files. So objects are never overwritten with
other content: two writers that make the same part by accident cannot mix, and the record says whose files count.

A .safetensors file holds one tensor, or two:

    moments           [rows, 2 * channels, height, width]   the raw posterior: mean, then logvar clamped to -30 ... 20
    moments_flipped   likewise, of the images mirrored left to right
    mean, mean_flipped [rows, channels, height, width]      instead, where only the mean is kept

Values are raw, that is unscaled, in float32, bfloat16 or float16, and all finite. With native resolution there is a
tensor for each row: `moments.0`, `moments.1`, ... The header's metadata says `format`, `version`, `part`.

A .parquet file has the columns of `latentcodec.store.index.INDEX_SCHEMA`.

Every .json object is *sealed*: its last member, on a line of its own, is the SHA-256 of all bytes before that line.
An object that does not match its seal is damaged. A manifest's `shards` are lists
`[part, height, width, rows, bytes, sha256, index_sha256]`, one a line; height and width are 0 for native resolution.

Modules
-------
files          a folder of objects, local or behind a URL; written whole or not at all
sealed         JSON that knows whether it is whole
settings       what a store is, and the refusal to mix two
manifest       shard entries, part records, the manifest
index          the parquet side of a shard
shards         the safetensors side of a shard: write it, read rows of it

plan           from source, VAE and wishes to settings; how many images make a part
preprocessing  which part of an image, at which size: crop, buckets, native
prepare        one image of the source to pixels and a row of the index, in a decoding process
crew           who is at work: parts are taken, the dead are noticed
launch         this process's number among those started together
encoding       batches through the encoder
part           one part: its shards and its record
statistics     mean and deviation of each channel, merged exactly
finish         all records to the manifest
precompute     the loop: start reading here
progress       images a second, time left

dataset        a store as a torch dataset: start reading here for that side
samples        what it gives: one row, a batch
expected       the refusal of another store than the caller means
facts          what is kept of a shard's index
opened         the shards that a process has open
draws          what is random in a row
buckets        rows by shape
order          the batches of an epoch, from seed and epoch
sampler        which of them are this process's, and where it is
loader         a DataLoader that knows what was handed over

verify         whether all objects are whole and agree with each other
verify_shard   one shard of them
reencode       rows encoded again, and compared

export         a store for other libraries; export_formats: in which form

Nothing is imported here.
"""
