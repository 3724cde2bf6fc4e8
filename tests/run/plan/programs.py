"""Small programs in the text form of XLA, as its TPU compiler writes them."""

# A loop over 16 layers, unrolled by two: one product with a slice of a stack of weights, and the all-gather of a
# weight that the fusions of a layer carry.
# ruff: noqa: E501 (the compiler writes long lines)
SCANNED = """\
HloModule jit_update, is_scheduled=true

FileNames
1 "/somewhere/lib/jaxtok/train/step.py"
2 "/somewhere/lib/python/site-packages/flax/core/axes_scan.py"
3 "/somewhere/lib/jaxtok/nn/linear.py"

FunctionNames
1 "update"

FileLocations
1 {file_name_id=1 function_name_id=1 line=48 end_line=48 column=15 end_column=62}
2 {file_name_id=2 function_name_id=1 line=200 end_line=200 column=15 end_column=62}
3 {file_name_id=3 function_name_id=1 line=36 end_line=36 column=15 end_column=62}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%carried (param_0: bf16[2,8], param_1: bf16[4,8]) -> (bf16[4,8], bf16[8,8]) {
  %param_0 = bf16[2,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[8,8]{1,0} all-gather(%param_0), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  %param_1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %tuple.9 = (bf16[4,8]{1,0:S(1)}, bf16[8,8]{1,0}) tuple(%param_1, %all-gather.1)
}

%product (param_0.2: f32[16,8,8], param_1.2: s32[], param_2: f32[4,8]) -> f32[4,8] {
  %param_0.2 = f32[16,8,8]{2,1,0} parameter(0)
  %param_1.2 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %dynamic-slice.3 = f32[1,8,8]{2,1,0} dynamic-slice(%param_0.2, %param_1.2, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %bitcast.4 = f32[8,8]{1,0} bitcast(%dynamic-slice.3)
  %param_2 = f32[4,8]{1,0} parameter(2)
  ROOT %convolution.5 = f32[4,8]{1,0} convolution(%param_2, %bitcast.4), dim_labels=bf_io->bf, metadata={op_name="jit(update)/transpose(jvp(Net))/stack/while/body/closed_call/block/up/dot_general" stack_frame_id=3}
}

%condition (state: (s32[], f32[4,8], f32[16,8,8], bf16[2,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(16)
  %state = (s32[], f32[4,8]{1,0}, f32[16,8,8]{2,1,0}, bf16[2,8]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

%body (state.1: (s32[], f32[4,8], f32[16,8,8], bf16[2,8])) -> (s32[], f32[4,8], f32[16,8,8], bf16[2,8]) {
  %state.1 = (s32[], f32[4,8]{1,0}, f32[16,8,8]{2,1,0}, bf16[2,8]{1,0}) parameter(0)
  %counter.1 = s32[] get-tuple-element(%state.1), index=0
  %x.1 = f32[4,8]{1,0} get-tuple-element(%state.1), index=1
  %stack = f32[16,8,8]{2,1,0} get-tuple-element(%state.1), index=2
  %part = bf16[2,8]{1,0} get-tuple-element(%state.1), index=3
  %quick = bf16[4,8]{1,0:T(8,128)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %fusion.1 = f32[4,8]{1,0} fusion(%stack, %counter.1, %x.1), kind=kOutput, calls=%product
  %fusion.2 = (bf16[4,8]{1,0:S(1)}, bf16[8,8]{1,0}) fusion(%part, %quick), kind=kOutput, calls=%carried
  %one = s32[] constant(1)
  %counter.2 = s32[] add(%counter.1, %one)
  %counter.3 = s32[] add(%counter.2, %one), control-predecessors={%counter.2}
  ROOT %next = (s32[], f32[4,8]{1,0}, f32[16,8,8]{2,1,0}, bf16[2,8]{1,0}) tuple(%counter.3, %fusion.1, %stack, %part)
}

ENTRY %main (x.2: f32[4,8], stack.2: f32[16,8,8], part.2: bf16[2,8]) -> f32[4,8] {
  %x.2 = f32[4,8]{1,0} parameter(0)
  %stack.2 = f32[16,8,8]{2,1,0} parameter(1)
  %part.2 = bf16[2,8]{1,0} parameter(2)
  %start = s32[] constant(0)
  %first = (s32[], f32[4,8]{1,0}, f32[16,8,8]{2,1,0}, bf16[2,8]{1,0}) tuple(%start, %x.2, %stack.2, %part.2)
  %while.1 = (s32[], f32[4,8]{1,0}, f32[16,8,8]{2,1,0}, bf16[2,8]{1,0}) while(%first), condition=%condition, body=%body
  %last = f32[4,8]{1,0} get-tuple-element(%while.1), index=1
  ROOT %all-reduce.1 = f32[4,8]{1,0} all-reduce(%last), channel_id=9, replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="jit(update)/psum" stack_frame_id=2}
}
"""


def one_line(instruction: str, *operands: str) -> str:
    """A program of one instruction whose operands are arrays `%a0`, `%a1`, ... of the given shapes."""
    parameters = [f"  %a{i} = {shape} parameter({i})" for i, shape in enumerate(operands)]
    return "\n".join(
        [
            "HloModule one",
            "",
            "ENTRY %main (a: f32[]) -> f32[] {",
            *parameters,
            f"  ROOT %r = {instruction}",
            "}",
        ]
    )
