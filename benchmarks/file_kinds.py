"""Make files of many kinds with the FFmpeg program, and read each: are its pictures those that FFmpeg shows?

    python -m benchmarks.file_kinds VIDEO [--only TEXT] [--keep FOLDER] [--json OUT]

Each kind is made from the first seconds of VIDEO: codecs, containers, pixel formats, sizes, frame rates, timestamps,
H.264 tools, interlacing. The pictures that the reader shows are compared with those that the FFmpeg program decodes for
the same times: turned and mirrored by its own rules, and widened to square pixels. `PSNR` is the worst keyframe's; the
number of frames is compared with what the times of FFmpeg's frames give.

JSON: a row for each kind.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from re import findall

import imageio_ffmpeg
import numpy as np

from codec import Clip, ClipSpec, MediaError, iter_clips, probe
from codec.resample import TOLERANCE_SECONDS
from videotok.io_utils import write_json

SIZE = "-vf scale=320:180,setsar=1"
X264 = f"{SIZE} -c:v libx264 -x264-params "

KINDS: dict[str, str] = {
    # name.suffix: options of the FFmpeg program between input and output
    # phones
    "vfr.mp4": "-vf scale=320:180,select='gt(random(0)\\,0.5)' -fps_mode vfr -c:v libx264",
    "hevc-10bit-hdr10.mp4": f"{SIZE},format=yuv420p10 -c:v libx265 -tag:v hvc1 -color_primaries bt2020 "
    "-color_trc smpte2084 -colorspace bt2020nc",
    "hevc-hlg.mov": f"{SIZE},format=yuv420p10 -c:v libx265 -tag:v hvc1 -color_primaries bt2020 "
    "-color_trc arib-std-b67 -colorspace bt2020nc",
    "hevc-full-range.mp4": "-vf scale=320:180:out_range=full -c:v libx265 -color_range pc",
    "bt709.mp4": "-vf scale=320:180:out_color_matrix=bt709 -c:v libx264 -colorspace bt709 -color_primaries bt709 "
    "-color_trc bt709",
    "bt601.mp4": "-vf scale=320:180:out_color_matrix=smpte170m -c:v libx264 -colorspace smpte170m",
    "no-matrix-hd.mp4": "-vf scale=1280:720 -c:v libx264 -preset ultrafast -frames:v 30",
    "full-range.mp4": "-vf scale=320:180:out_range=full -c:v libx264 -color_range pc",
    "yuvj.mp4": "-vf scale=320:180,format=yuvj420p -c:v libx264",
    # screen recordings
    "one-fps.mp4": f"-r 1 {SIZE} -c:v libx264",
    "fps-120.mp4": "-vf scale=320:180,fps=120 -c:v libx264",
    "fps-480.mkv": "-vf scale=160:90,fps=480 -c:v libx264",
    "fps-1000.mkv": "-vf scale=64:36,fps=1000 -c:v libx264 -preset ultrafast",
    "drops-repeats.mkv": "-vf scale=320:180,fps=60,mpdecimate -fps_mode vfr -c:v libx264",
    "ntsc-film.mp4": f"-r 24000/1001 {SIZE} -c:v libx264",
    # interlaced
    "dv-pal.dv": "-target pal-dv",
    "dv-ntsc.avi": "-vf scale=720:480 -c:v dvvideo -pix_fmt yuv411p -r 30000/1001",
    "dv-pal.mov": "-vf scale=720:576 -c:v dvvideo -pix_fmt yuv420p -r 25",
    "dvcpro50.mov": "-vf scale=720:576 -c:v dvvideo -pix_fmt yuv422p -r 25",
    "vob.vob": "-target pal-dvd",
    "svcd.mpg": "-target ntsc-svcd",
    "vcd.mpg": "-target pal-vcd",
    "tff.ts": "-vf scale=720:576,tinterlace=interleave_top -c:v mpeg2video -flags +ildct+ilme -bf 2 -b:v 4M",
    "mbaff.mp4": "-vf scale=320:192,tinterlace=interleave_top -c:v libx264 -flags +ildct+ilme -x264-params tff=1",
    "mbaff-bff.ts": "-vf scale=320:192,tinterlace=interleave_bottom -c:v libx264 -x264-params bff=1",
    "fake-interlaced.mp4": f"{X264}fake-interlaced=1",
    "pic-struct.mp4": f"{X264}pic-struct=1:nal-hrd=cbr:vbv-maxrate=500:vbv-bufsize=500:bitrate=500",
    "prores-interlaced.mov": "-vf scale=320:192,tinterlace=interleave_top -c:v prores_ks -flags +ildct",
    # old
    "wmv1.wmv": f"{SIZE} -c:v wmv1",
    "wmv2.asf": f"{SIZE} -c:v wmv2",
    "rv10.rm": "-vf scale=352:288 -c:v rv10",
    "rv20.rm": "-vf scale=352:288 -c:v rv20",
    "flv1.flv": f"{SIZE} -c:v flv",
    "flashsv.flv": f"{SIZE} -c:v flashsv",
    "flashsv2.flv": f"{SIZE} -c:v flashsv2",
    "h264.flv": f"{SIZE} -c:v libx264",
    "msmpeg4v2.avi": f"{SIZE} -c:v msmpeg4v2 -b:v 1M",
    "msmpeg4v3.avi": f"{SIZE} -c:v msmpeg4 -b:v 1M",
    "cinepak.avi": "-vf scale=160:88 -c:v cinepak -frames:v 12",
    "msvideo1.avi": f"{SIZE} -c:v msvideo1",
    "msrle.avi": f"{SIZE} -c:v msrle -pix_fmt pal8",
    "zmbv.avi": f"{SIZE} -c:v zmbv",
    "asv2.avi": f"{SIZE} -c:v asv2 -b:v 2M",
    "svq1.mov": f"{SIZE} -c:v svq1 -frames:v 20",
    "rpza.mov": f"{SIZE} -c:v rpza",
    "smc.mov": f"{SIZE} -c:v smc -pix_fmt pal8",
    "qtrle.mov": f"{SIZE} -c:v qtrle",
    "qtrle-alpha.mov": f"{SIZE} -c:v qtrle -pix_fmt argb",
    "roq.roq": "-vf scale=256:128 -r 30 -c:v roqvideo -frames:v 30",
    "h261.h261": "-vf scale=352:288 -c:v h261 -b:v 1M",
    "h263.3gp": "-vf scale=352:288 -c:v h263 -b:v 1M",
    "h263p.avi": f"{SIZE} -c:v h263p -umv 1 -aiv 1 -obmc 1 -b:v 1M",
    "snow.avi": f"{SIZE} -c:v snow -strict -2",
    "mjpeg.avi": f"{SIZE} -c:v mjpeg -q:v 3",
    "mjpeg-raw.mjpg": f"{SIZE} -c:v mjpeg -q:v 3",
    "raw-rgb.avi": "-vf scale=160:90 -c:v rawvideo -pix_fmt bgr24",
    "raw-yuv.y4m": "-vf scale=160:90 -pix_fmt yuv420p",
    # studios
    "prores-422.mov": f"{SIZE} -c:v prores_ks -profile:v 3",
    "prores-4444-alpha.mov": f"{SIZE} -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
    "dnxhd.mxf": "-vf scale=1920:1080 -r 25 -c:v dnxhd -b:v 120M -frames:v 15",
    "dnxhr-444.mov": f"{SIZE} -c:v dnxhd -profile:v dnxhr_444 -pix_fmt yuv444p10le",
    "cineform.mov": f"{SIZE} -c:v cfhd",
    "jpeg2000.mxf": "-vf scale=320:180 -r 25 -c:v jpeg2000 -pix_fmt yuv422p -frames:v 20",
    "xdcam.mxf": "-vf scale=720:576 -r 25 -c:v mpeg2video -pix_fmt yuv422p -bf 2 -b:v 10M",
    "intra.mxf": "-vf scale=720:576 -r 25 -c:v mpeg2video -pix_fmt yuv422p -g 1 -b:v 30M",
    "v210.mov": f"{SIZE} -c:v v210",
    "ffv1.mkv": f"{SIZE} -c:v ffv1",
    "ffv1-16bit-gray.mkv": f"{SIZE} -c:v ffv1 -pix_fmt gray16le",
    "huffyuv.avi": f"{SIZE} -c:v huffyuv",
    "utvideo-rgba.avi": f"{SIZE} -c:v utvideo -pix_fmt gbrap",
    "magicyuv.mov": f"{SIZE} -c:v magicyuv",
    "hap.mov": "-vf scale=320:180 -c:v hap",
    "dxv.mov": "-vf scale=320:192 -c:v dxv",
    "dirac.mkv": f"{SIZE} -c:v vc2 -pix_fmt yuv422p",
    "exr.mov": "-vf scale=160:90 -c:v exr -frames:v 10",
    "png.mov": f"{SIZE} -c:v png -pix_fmt rgba",
    "apv.mp4": f"{SIZE} -c:v liboapv -pix_fmt yuv422p10le",
    "vvc.mp4": "-vf scale=320:176 -c:v libvvenc -preset faster -frames:v 25",
    # the web
    "animated.gif": f"{SIZE} -frames:v 30",
    "animated.apng": f"{SIZE} -frames:v 30 -plays 0",
    "animated.webp": f"{SIZE} -frames:v 30 -c:v libwebp_anim -loop 0",
    "still.avif": f"{SIZE} -frames:v 1 -c:v libaom-av1 -cpu-used 8 -still-picture 1",
    "animated.avif": f"{SIZE} -frames:v 20 -c:v libaom-av1 -cpu-used 8",
    "vp8.webm": f"{SIZE} -c:v libvpx -deadline realtime -cpu-used 8",
    "vp8-alpha.webm": f"{SIZE} -c:v libvpx -pix_fmt yuva420p -auto-alt-ref 0 -deadline realtime -cpu-used 8",
    "vp9-alpha.webm": f"{SIZE} -c:v libvpx-vp9 -pix_fmt yuva420p -deadline realtime -cpu-used 8",
    "vp9-444-12bit.webm": f"{SIZE} -c:v libvpx-vp9 -pix_fmt yuv444p12le -deadline realtime -cpu-used 8",
    "vp9-rgb.webm": f"{SIZE} -c:v libvpx-vp9 -pix_fmt gbrp -deadline realtime -cpu-used 8",
    "av1-10bit-grain.mkv": f"{SIZE} -c:v libsvtav1 -preset 12 -pix_fmt yuv420p10le -svtav1-params film-grain=20",
    "av1.mp4": f"{SIZE} -c:v libsvtav1 -preset 12",
    "av1-444.mkv": f"{SIZE} -c:v libaom-av1 -cpu-used 8 -pix_fmt yuv444p -frames:v 20",
    "av1-gray.mkv": f"{SIZE} -c:v libaom-av1 -cpu-used 8 -pix_fmt gray -frames:v 20",
    "av1.obu": f"{SIZE} -c:v libsvtav1 -preset 12 -f obu",
    "theora.ogv": f"{SIZE} -c:v libtheora -q:v 8",
    "fragments.mp4": f"{X264}keyint=10 -movflags frag_keyframe+empty_moov+default_base_moof",
    "fragments-sidx.mp4": f"{X264}keyint=10 -movflags dash+global_sidx+delay_moov",
    "hybrid.mp4": f"{X264}keyint=10 -movflags hybrid_fragmented",
    "smooth.ismv": f"{X264}keyint=10 -movflags frag_keyframe",
    "wtv.wtv": f"{SIZE} -c:v mpeg2video -bf 2 -b:v 2M",
    # pixel formats
    "h264-422-10bit.mp4": f"{SIZE} -c:v libx264 -pix_fmt yuv422p10le",
    "h264-444.mp4": f"{SIZE} -c:v libx264 -pix_fmt yuv444p",
    "h264-rgb.mkv": f"{SIZE} -c:v libx264rgb",
    "h264-gray.mp4": f"{SIZE} -c:v libx264 -pix_fmt gray",
    "h264-gray-10bit.mp4": f"{SIZE} -c:v libx264 -pix_fmt gray10le",
    "h264-lossless.mkv": f"{X264}qp=0",
    "hevc-gray-12bit.mkv": f"{SIZE} -c:v libx265 -pix_fmt gray12le",
    "hevc-444-12bit.mkv": f"{SIZE} -c:v libx265 -pix_fmt yuv444p12le",
    "hevc-rgb.mkv": f"{SIZE} -c:v libx265 -pix_fmt gbrp",
    "mpeg2-422.ts": f"{SIZE} -c:v mpeg2video -pix_fmt yuv422p -bf 2 -b:v 4M",
    "mjpeg-444.mkv": f"{SIZE} -c:v mjpeg -pix_fmt yuvj444p -q:v 3",
    "monochrome.avi": "-vf scale=160:90 -c:v rawvideo -pix_fmt gray",
    # sizes and shapes
    "size-1x1.mkv": "-vf scale=1:1 -c:v ffv1 -pix_fmt rgb32",
    "size-1x1-h264.mp4": "-vf scale=1:1 -c:v libx264 -pix_fmt yuv444p",
    "size-2x2.mp4": "-vf scale=2:2 -c:v libx264 -pix_fmt yuv420p",
    "size-3x5.mp4": "-vf scale=3:5 -c:v libx264 -pix_fmt yuv444p",
    "size-3x5.webm": "-vf scale=3:5 -c:v libvpx-vp9",
    "size-17x33.mpg": "-vf scale=17:33 -c:v mpeg2video -bf 2",
    "size-8192x32.mp4": "-vf scale=8192:32 -c:v libx264 -preset ultrafast -frames:v 15",
    "size-32x4096.mp4": "-vf scale=32:4096 -c:v libx264 -preset ultrafast -frames:v 15",
    "size-8192x4320.mp4": "-vf scale=8192:4320 -c:v libx264 -preset ultrafast -frames:v 3",
    "size-portrait-1-10.mp4": "-vf scale=64:640 -c:v libx264",
    "size-odd.mp4": "-vf scale=321:181 -c:v libx264 -pix_fmt yuv444p",
    "size-odd-420.mkv": "-vf scale=321:181 -c:v ffv1 -pix_fmt yuv420p",
    "size-odd-hevc.mp4": "-vf scale=322:182 -c:v libx265",
    "sar-64-45.mp4": "-vf scale=360:288,setsar=64/45 -c:v libx264",
    "sar-10-11.mpg": "-vf scale=352:240,setsar=10/11 -c:v mpeg2video -bf 2 -b:v 2M",
    "sar-1-3.mkv": "-vf scale=640:180,setsar=1/3 -c:v libx264",
    "sar-5-1.mp4": "-vf scale=64:180,setsar=5/1 -c:v libx264",
    "sar-vp9.webm": "-vf scale=360:288,setsar=64/45 -c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "crop-hevc.mp4": "-vf scale=330:186 -c:v libx265",
    # few frames
    "frames-1.mp4": f"{SIZE} -c:v libx264 -frames:v 1",
    "frames-2.mp4": f"{SIZE} -c:v libx264 -frames:v 2",
    "frames-1.webm": f"{SIZE} -c:v libvpx-vp9 -frames:v 1",
    "frames-1.avi": f"{SIZE} -c:v mpeg4 -frames:v 1",
    "frames-1.ts": f"{SIZE} -c:v mpeg2video -frames:v 1",
    "frames-2.gif": f"{SIZE} -frames:v 2",
    "frames-3.h264": f"{SIZE} -c:v libx264 -frames:v 3",
    # timestamps
    "after-24h.ts": f"{SIZE} -c:v libx264 -output_ts_offset 86400",
    "after-24h.mkv": f"{SIZE} -c:v libx264 -output_ts_offset 86400",
    "after-24h.mp4": f"{SIZE} -c:v libx264 -output_ts_offset 86400",
    "wraps-33-bits.ts": f"{SIZE} -c:v libx264 -output_ts_offset 95442.2 -muxdelay 0",
    "wraps-33-bits.mpg": f"{SIZE} -c:v mpeg2video -bf 2 -b:v 2M -output_ts_offset 95442.2",
    "negative.mp4": f"{SIZE} -c:v libx264 -output_ts_offset -1.5 -avoid_negative_ts disabled",
    "negative.ts": f"{SIZE} -c:v libx264 -output_ts_offset -1.5 -muxdelay 0",
    "negative-cts.mp4": f"{SIZE} -c:v libx264 -movflags negative_cts_offsets",
    "coarse-times.mkv": f"{SIZE} -c:v libx264 -enc_time_base 1/30",
    "fine-times.mov": f"{SIZE} -c:v libx264 -video_track_timescale 1000000",
    # H.264's and others' tools
    "slices.mp4": f"{X264}slices=4",
    "sliced-threads.mp4": f"{X264}sliced-threads=1:threads=4",
    "slice-max-size.ts": f"{X264}slice-max-size=400",
    "open-gop.mp4": f"{X264}open-gop=1:keyint=12:bframes=3",
    "intra-refresh.ts": f"{X264}intra-refresh=1:keyint=12",
    "weighted.mp4": "-vf scale=320:180,fade=in:0:40 -c:v libx264 -x264-params weightp=2:weightb=1:bframes=3",
    "many-references.mkv": f"{X264}ref=16:bframes=16:b-pyramid=normal:b-adapt=2",
    "strict-pyramid.mp4": f"{X264}b-pyramid=strict:bframes=4",
    "temporal-direct.mp4": f"{X264}direct=temporal:bframes=3",
    "cavlc.mp4": f"{X264}cabac=0:8x8dct=0",
    "constrained-intra.mp4": f"{X264}constrained-intra=1",
    "stereo.mkv": f"{X264}frame-packing=5",
    "baseline.mp4": f"{SIZE} -c:v libopenh264 -profile:v constrained_baseline -b:v 500k",
    "openh264-slices.mp4": f"{SIZE} -c:v libopenh264 -slices 4 -b:v 500k",
    "access-units.h264": f"{X264}aud=1:nal-hrd=vbr:vbv-maxrate=900:vbv-bufsize=900",
    "all-intra.mp4": f"{X264}keyint=1",
    "one-keyframe.mp4": f"{X264}keyint=infinite:scenecut=0",
    "hevc-open-gop.ts": f"{SIZE} -c:v libx265 -x265-params open-gop=1:keyint=12:bframes=4",
    "hevc-raw.h265": f"{SIZE} -c:v libx265",
    "hevc-tiles.mp4": "-vf scale=512:256 -c:v libkvazaar -kvazaar-params tiles=2x2",
    "mpeg4-qpel.avi": f"{SIZE} -c:v mpeg4 -flags +qpel+mv4 -bf 2 -b:v 1M",
    "mpeg4-gmc.avi": f"{SIZE} -c:v libxvid -gmc 1 -b:v 1M",
    "mpeg4-packed.avi": f"{SIZE} -c:v libxvid -bf 2 -b:v 1M",
    "mpeg4-interlaced.mp4": "-vf scale=320:192,tinterlace=interleave_top -c:v mpeg4 -flags +ildct+ilme -b:v 1M",
    "mpeg4-partitioned.mp4": f"{SIZE} -c:v mpeg4 -data_partitioning 1 -b:v 1M",
    "mpeg4-raw.m4v": f"{SIZE} -c:v mpeg4 -bf 2 -b:v 1M",
    "mpeg2-raw.m2v": f"{SIZE} -c:v mpeg2video -bf 2 -b:v 1M",
    "mpeg1.mpg": f"-r 25 {SIZE} -c:v mpeg1video -bf 2 -b:v 2M",
    # cameras, pixel formats, containers and pictures, second list
    "high10-intra.mp4": f"{SIZE} -c:v libx264 -pix_fmt yuv420p10le -g 1",
    "cavlc444.mkv": f"{SIZE} -c:v libx264 -pix_fmt yuv444p -x264-params cabac=0:keyint=1",
    "high444-lossless-10.mkv": f"{SIZE} -c:v libx264 -pix_fmt yuv444p10le -qp 0",
    "avc-intra100.mxf": "-vf scale=1920:1080,fps=25 -c:v libx264 -pix_fmt yuv422p10le -x264-params avcintra-class=100 "
    "-flags +ildct -frames:v 20",
    "stitchable.mp4": f"{X264}stitchable=1:keyint=15",
    "sps-id.ts": f"{X264}sps-id=5:keyint=12:repeat-headers=1",
    "crop-corner.mp4": f"{SIZE} -c:v libx264 -bsf:v "
    "h264_metadata=crop_left=32:crop_right=16:crop_top=10:crop_bottom=20",
    "crop-corner-hevc.mp4": f"{SIZE} -c:v libx265 -bsf:v "
    "hevc_metadata=crop_left=32:crop_right=16:crop_top=10:crop_bottom=20",
    "sar-container-only.mkv": f"{SIZE} -c:v libx264 -aspect 2.35",
    "sar-container-sps-differ.mp4": "-vf scale=320:180,setsar=4/3 -c:v libx264 -bsf:v "
    "h264_metadata=sample_aspect_ratio=1/1",
    "fullrange-flag-only.mp4": f"{SIZE} -c:v libx264 -bsf:v h264_metadata=video_full_range_flag=1",
    "matrix-709-only.mp4": f"{SIZE} -c:v libx264 -bsf:v h264_metadata=matrix_coefficients=1",
    "smpte240.mkv": f"{SIZE} -c:v libx264 -bsf:v h264_metadata=matrix_coefficients=7",
    "matrix-reserved.mkv": f"{SIZE} -c:v libx264 -bsf:v h264_metadata=matrix_coefficients=3",
    "rgb-full-flag.mkv": f"{SIZE} -c:v libx264rgb -pix_fmt bgr0",
    "nv12.avi": "-vf scale=160:90 -c:v rawvideo -pix_fmt nv12 -frames:v 20",
    "uyvy.avi": "-vf scale=160:90 -c:v rawvideo -pix_fmt uyvy422 -frames:v 20",
    "pal8.mkv": "-vf scale=160:90 -c:v png -pix_fmt pal8 -frames:v 20",
    "monob.mkv": "-vf scale=160:90 -c:v png -pix_fmt monob -frames:v 20",
    "rgb48.mov": "-vf scale=160:90 -c:v png -pix_fmt rgb48be -frames:v 20",
    "ya8.mkv": "-vf scale=160:90 -c:v png -pix_fmt ya8 -frames:v 20",
    "rgb565.avi": "-vf scale=160:90 -c:v rawvideo -pix_fmt rgb565le -frames:v 20",
    "r210.mov": "-vf scale=160:90 -c:v r210 -frames:v 20",
    "ffv1-420a.mkv": "-vf scale=160:90 -c:v ffv1 -pix_fmt yuva420p -frames:v 20",
    "ffv1-411.mkv": "-vf scale=160:90 -c:v ffv1 -pix_fmt yuv411p -frames:v 20",
    "ffv1-float.mkv": "-vf scale=160:90 -c:v ffv1 -pix_fmt gbrpf32le -strict -2 -frames:v 20",
    "cinema-xyz.mxf": "-vf scale=160:90,fps=24 -c:v jpeg2000 -pix_fmt xyz12le -frames:v 12",
    "y4m-10.y4m": "-vf scale=160:90 -pix_fmt yuv420p10le -strict -1 -frames:v 20",
    "y4m-444-sar.y4m": "-vf scale=160:90,setsar=4/3 -pix_fmt yuv444p -frames:v 20",
    "hevc-interlaced.ts": "-vf scale=320:192,fps=25 -c:v libx265 -preset ultrafast -x265-params interlace=tff "
    "-field_order tt",
    "hevc-alpha.mov": f"{SIZE} -c:v libx265 -pix_fmt yuva420p -preset ultrafast",
    "hev1-inband.mp4": f"{SIZE} -c:v libx265 -preset ultrafast -tag:v hev1 -x265-params repeat-headers=1",
    "annexb-mkv.mkv": f"{SIZE} -c:v libx264 -bsf:v h264_mp4toannexb",
    "h264.avi": f"{SIZE} -c:v libx264 -bf 0",
    "h264-in-ps.vob": f"{SIZE} -c:v libx264 -f vob",
    "hevc.flv": f"{SIZE} -c:v libx265 -preset ultrafast",
    "av1.flv": f"{SIZE} -c:v libsvtav1 -preset 12",
    "vp9.mp4": f"{SIZE} -c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "vp9.ivf": f"{SIZE} -c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "vp8.ivf": f"{SIZE} -c:v libvpx -deadline realtime -cpu-used 8",
    "av1.ivf": f"{SIZE} -c:v libsvtav1 -preset 12",
    "live.webm": f"{SIZE} -c:v libvpx -deadline realtime -cpu-used 8 -live 1",
    "live.mkv": f"{SIZE} -c:v libx264 -live 1",
    "nut-ns.nut": f"{SIZE} -c:v libx264",
    "m2ts.m2ts": f"{SIZE} -c:v libx264 -mpegts_m2ts_mode 1",
    "swf.swf": f"{SIZE} -c:v flv",
    "f4v.f4v": f"{SIZE} -c:v libx264",
    "mpjpeg.mjpeg": "-vf scale=160:90 -c:v mjpeg -f mpjpeg",
    "smjpeg.mjpg": "-vf scale=160:90 -c:v mjpeg -f smjpeg",
    "avui.mov": "-vf scale=720:576,fps=25 -c:v avui -strict -2 -frames:v 12",
    "fast.gif": "-vf scale=160:90,fps=50",
    "animated.png": "-vf scale=160:90,fps=10 -f apng",
    "still.webp": "-vf scale=160:90 -frames:v 1",
    "still.bmp": "-vf scale=160:90 -frames:v 1",
    "still.tiff": "-vf scale=160:90 -frames:v 1",
    "still.jp2": "-vf scale=160:90 -frames:v 1",
    "still.exr": "-vf scale=160:90 -frames:v 1 -c:v exr",
    "still.qoi": "-vf scale=160:90 -frames:v 1",
    "vvc.266": "-vf scale=320:176 -c:v libvvenc -preset faster -frames:v 12",
    "dirac.drc": "-vf scale=320:192 -c:v vc2 -pix_fmt yuv422p -frames:v 12",
    "theora-sar.ogv": "-vf scale=320:180,setsar=4/3 -c:v libtheora -q:v 8",
    "prores-sar.mov": "-vf scale=720:576,setsar=16/15 -c:v prores_ks -frames:v 10",
    "dv-wide.avi": "-vf scale=720:576,setdar=16/9 -c:v dvvideo -r 25 -pix_fmt yuv420p -frames:v 25",
    "mpeg2-wide.ts": "-vf scale=720:576,setdar=16/9 -c:v mpeg2video -bf 2 -b:v 4M",
    "xvid-wide.avi": "-vf scale=352:288,setsar=16/11 -c:v libxvid -b:v 1M",
    "mjpeg-full-709.mov": "-vf scale=320:180:out_color_matrix=bt709:out_range=full -c:v mjpeg -pix_fmt yuvj420p "
    "-colorspace bt709 -color_range pc",
}
"""Kinds of files: name, and the options of the FFmpeg program that make it."""

TURNS = {"rotated-90": "-display_rotation 90", "rotated-270": "-display_rotation 270", "mirrored": "-display_hflip"}
"""Kinds that are copies of another with a display matrix: options before the input."""

TURNED = ("bt709.mp4", "hevc-10bit-hdr10.mp4", "sar-64-45.mp4", "vfr.mp4")


@dataclass(frozen=True)
class Result:
    """How one kind of file was read."""

    kind: str
    size: str
    """As displayed, and the codec."""
    motion: str
    """native or reencode."""
    frames: int
    expected_frames: int
    psnr: float
    """dB; of the keyframe that differs most from FFmpeg's picture."""
    cpu_seconds: float
    message: str
    """The refusal, or what looks wrong; empty where all is well."""


def run_ffmpeg(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run the FFmpeg program."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-y", *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def make(kind: str, options: str, video: Path, folder: Path) -> Path | None:
    """Make a file of a kind from the first two seconds of a video; None if FFmpeg cannot."""
    path = folder / kind
    sound = [] if "-c:a" in options else ["-an"]
    arguments = ["-t", "2", "-i", str(video), *sound, *shlex.split(options), "-threads", "2", str(path)]
    if not path.exists() and run_ffmpeg(arguments).returncode:
        path.unlink(missing_ok=True)
        return None
    return path


def turn(path: Path, name: str, options: str) -> Path | None:
    """Copy a file with another display matrix."""
    turned = path.with_name(f"{name}-{path.name}")
    if not turned.exists() and run_ffmpeg([*options.split(), "-i", str(path), "-c", "copy", str(turned)]).returncode:
        return None
    return turned


def shown_by_ffmpeg(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures that FFmpeg decodes, uint8 [n, H, W, 3] of a (width, height), and their times in seconds."""
    width, height = size
    flags = "accurate_rnd+full_chroma_int+area"
    chain = f"showinfo,scale={width}:{height}:flags={flags}"
    output = ["-map", "0:v:0", "-vf", chain, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = run_ffmpeg(["-i", str(path), *output])
    times = [float(text) for text in findall(rb"pts_time:([-\d.]+)", done.stderr)]
    pictures = np.frombuffer(done.stdout, np.uint8)
    pictures = pictures[: len(pictures) // (width * height * 3) * width * height * 3]
    return pictures.reshape(-1, height, width, 3), np.array(times)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the PSNR of two uint8 pictures in dB, at most 99."""
    error = np.square(one.astype(float) - other).mean()
    return 99.0 if not error else min(99.0, 10 * np.log10(255**2 / error))


def compare(path: Path) -> Result:
    """Read a file, and compare its pictures with FFmpeg's."""
    began = time.process_time()
    try:
        facts, clips = probe(path), list(iter_clips(path, ClipSpec(frames=12)))
    except MediaError as error:
        return Result(path.name, "", "", 0, 0, 0.0, time.process_time() - began, str(error))
    seconds = time.process_time() - began
    pictures, times = shown_by_ffmpeg(path, (facts.width, facts.height))
    frames = sum(clip.num_frames for clip in clips)
    label = f"{facts.width}x{facts.height} {facts.codec} {facts.pixel_format}"
    if not len(pictures):
        return Result(path.name, label, clips[0].motion_source, frames, 0, 0.0, seconds, "FFmpeg shows no picture")
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / 12
    expected = max(1, round((times[-1] - times[0] + step) * 12))
    worst = min(psnr(clip.keyframe, on_screen(clip, clips[0], pictures, times)) for clip in clips)
    problems = [f"expected {expected} frames"] if abs(frames - expected) > 1 else []
    problems += ["pictures differ"] if worst < 40 else []
    problems += ["damaged"] if any(clip.damaged for clip in clips) else []
    return Result(
        path.name, label, clips[0].motion_source, frames, expected, round(worst, 1), seconds, ", ".join(problems)
    )


def on_screen(clip: Clip, first: Clip, pictures: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the picture of FFmpeg that is shown when a clip begins."""
    elapsed = clip.pts_seconds - first.pts_seconds
    shown = np.flatnonzero(times[: len(pictures)] - times[0] <= elapsed + TOLERANCE_SECONDS)
    return pictures[shown[-1] if len(shown) else 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path, help="the video that all files are made of")
    parser.add_argument("--only", default="", help="only kinds whose name has this text")
    parser.add_argument("--keep", type=Path, help="folder for the files")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, options in KINDS.items():
            if arguments.only not in kind:
                continue
            path = make(kind, options, arguments.video, folder)
            if path is None:
                print(f"{kind:28} cannot be made", flush=True)
                continue
            turned = [turn(path, name, option) for name, option in TURNS.items()] if kind in TURNED else []
            for one in [path, *(other for other in turned if other)]:
                result = compare(one)
                results.append(result)
                print(line(result), flush=True)
    if arguments.json:
        write_json(arguments.json, [asdict(result) for result in results])
    sys.exit(1 if any(result.message for result in results) else 0)


def line(result: Result) -> str:
    """Return a result as a line of the table."""
    counted = f"{result.frames}/{result.expected_frames}"
    return (
        f"{result.kind:28} {result.size:30} {result.motion:9} {counted:9} {result.psnr:5.1f} dB "
        f"{result.cpu_seconds:5.1f} s  {result.message}"
    )


if __name__ == "__main__":
    main()
