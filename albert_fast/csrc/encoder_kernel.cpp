// One thread's share of ALBERT's encoder. CMakeLists.txt compiles this file once per instruction set, each time into
// the namespace ALBERT_FAST_ISA.
//
// Threads form a grid: groups share out the rows of the batch, and the threads of a group the output channels. A
// group's rows stay with it, in its caches, from one attention to the next; only attention needs everybody's.
#include <sched.h>

#include "activations.h"
#include "encoder.h"
#include "encoder_plan.h"
#include "heads.h"

namespace albert_fast::ALBERT_FAST_ISA {

extern const EncoderKernels encoder;

namespace {

constexpr int64_t kQueriesWorthAnItem = 64;  // of one head: fewer are not worth laying its keys out again
constexpr int64_t kSpins = 4000;

template <class Kind, class Attention>
class Thread {
 public:
  Thread(const Plan<Kind, Attention>& plan, Team& team, int64_t thread)
      : plan_(plan), problem_(plan.problem), batch_(plan.batch), team_(team), thread_(thread) {
    join(batch_.tokens);
  }

  void run() {
    embed();
    for (int64_t pass = 0; pass < problem_.passes; ++pass) {
      const Layer& layer = layer_of(pass);
      const bool firsts = problem_.first_token_only && pass == problem_.passes - 1;
      if (firsts) {
        query_firsts(layer, pass);
      } else {
        query_all(layer, pass);
      }
      wait();
      attention(pass, firsts);
      wait();
      const Rows<Kind>& rows = firsts ? plan_.firsts : plan_.all;
      join(rows.count);
      for (int64_t row = first_row_; row < last_row_; row += grid_.chunk) {
        finish(layer, pass, rows, row, smaller(grid_.chunk, last_row_ - row));
      }
    }
    wait();
    hand_out();
  }

 private:
  using Element = typename Kind::Element;
  using Heads = typename Attention::Element;

  const Plan<Kind, Attention>& plan_;
  const Encoder& problem_;
  const Batch& batch_;
  Team& team_;
  const int64_t thread_;
  Grid grid_{};
  int64_t member_ = 0;  // of the group
  int64_t first_row_ = 0;
  int64_t last_row_ = 0;

  void join(int64_t rows) {
    grid_ = grid_of(problem_, rows, team_.size);
    const int64_t group = thread_ / grid_.threads_in_group;
    member_ = thread_ % grid_.threads_in_group;
    first_row_ = group * rows / grid_.groups;
    last_row_ = (group + 1) * rows / grid_.groups;
  }

  int64_t mine(int64_t count, int64_t member) const {
    return member * count / grid_.threads_in_group;
  }

  // For all threads. They spin for as long as the imbalance of a phase lasts, then leave the processor to others.
  void wait() const {
    if (team_.size == 1) {
      return;
    }
    const int32_t turn = __atomic_load_n(&team_.turn, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team_.arrived, 1, __ATOMIC_ACQ_REL) == team_.size) {
      __atomic_store_n(&team_.arrived, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&team_.turn, turn + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int64_t spins = 0; __atomic_load_n(&team_.turn, __ATOMIC_ACQUIRE) == turn; ++spins) {
      if (spins > kSpins) {
        sched_yield();
      } else {
#ifdef ALBERT_FAST_X86
        _mm_pause();
#endif
      }
    }
  }

  // Between the phases of a group; with one group for each thread nobody else is in it.
  void wait_for_group() const {
    if (grid_.threads_in_group > 1) {
      wait();
    }
  }

  const Layer& layer_of(int64_t pass) const {
    return problem_.layers[problem_.schedule[pass]];
  }

  float scale(int64_t pass, int64_t which) const {
    return problem_.input_scales == nullptr ? 1.0f : problem_.input_scales[1 + 4 * pass + which];
  }

  template <class Linears, class Store>
  void apply_mine(const Linear& linear, Operand a, float input_scale, int64_t rows, const Store& store_vector) const {
    const int64_t panels = round_up(linear.out, kPanel) / kPanel;
    apply<Linears>(linear, a, input_scale, rows, mine(panels, member_), mine(panels, member_ + 1), store_vector);
  }

  template <class Mapping>
  void map_embedded() {
    using From = typename Mapping::Element;
    const int64_t rows = last_row_ - first_row_, size = problem_.embedding_size;
    const float input_scale = problem_.input_scales == nullptr ? 1.0f : problem_.input_scales[0];
    const auto write = writer_for<Mapping>(problem_.mapping, input_scale);
    const int64_t in_a_float = 4 / static_cast<int64_t>(sizeof(From));
    const Matrix<From> operand{reinterpret_cast<From*>(plan_.mapping.data), plan_.mapping.stride * in_a_float};
    for (int64_t row = first_row_ + mine(rows, member_); row < first_row_ + mine(rows, member_ + 1); ++row) {
      const float* const from = batch_.embedded + batch_.position[row] * size;
      for (int64_t i = 0; i < round_up(size, kPanel); ++i) {
        write(operand.row(row) + i, i, i < size ? from[i] : 0.0f);
      }
    }
    wait_for_group();
    apply_mine<Mapping>(
        problem_.mapping, operand.from(first_row_), input_scale, rows, [&](int64_t row, int64_t column, Floats value) {
          store(plan_.all.x.row(first_row_ + row) + column, value);
        });
  }

  void embed() {
    switch (problem_.mapping.type) {
      case Type::float32:
        map_embedded<Float32>();
        break;
      case Type::bfloat16:
        map_embedded<BFloat16s>();
        break;
      case Type::int8:
        map_embedded<UnsignedBytes>();
        break;
    }
    wait_for_group();
    if constexpr (Kind::type != Type::float32) {
      const int64_t rows = last_row_ - first_row_;
      const auto write = writer_for<Kind>(layer_of(0).qkv, scale(0, 0));
      for (int64_t row = first_row_ + mine(rows, member_); row < first_row_ + mine(rows, member_ + 1); ++row) {
        for (int64_t i = 0; i < problem_.hidden_size; i += kLanes) {
          write(plan_.all.operand.row(row) + i, i, load(plan_.all.x.row(row) + i));
        }
      }
      wait_for_group();
    }
  }

  void query_all(const Layer& layer, int64_t pass) const {
    const Matrix<Heads> qkv{plan_.qkv.row(first_row_), plan_.qkv.stride};
    apply_mine<Kind>(
        layer.qkv, plan_.all.operand.from(first_row_), scale(pass, 0), last_row_ - first_row_,
        [qkv](int64_t row, int64_t column, Floats value) { store(qkv.row(row) + column, value); });
  }

  // Queries of first tokens only, keys and values of all. A panel that holds both is computed in both.
  void query_firsts(const Layer& layer, int64_t pass) {
    const int64_t size = problem_.hidden_size, rows = last_row_ - first_row_;
    const int64_t panels = round_up(layer.qkv.out, kPanel) / kPanel, first = size / kPanel;
    apply<Kind>(
        layer.qkv, plan_.all.operand.from(first_row_), scale(pass, 0), rows, first + mine(panels - first, member_),
        first + mine(panels - first, member_ + 1),
        [&](int64_t row, int64_t column, Floats value) { store(plan_.qkv.row(first_row_ + row) + column, value); });
    wait();  // other groups' rows are read now
    for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
      const int64_t row = batch_.texts[text].begin, width = round_up(size, kPanel);
      memcpy(plan_.firsts.x.row(text), plan_.all.x.row(row), width * sizeof(float));
      if constexpr (Kind::type != Type::float32) {
        memcpy(plan_.firsts.operand.row(text), plan_.all.operand.row(row), width * sizeof(Element));
      }
    }
    wait();
    const int64_t query_panels = round_up(size, kPanel) / kPanel;
    apply<Kind>(
        layer.qkv, plan_.firsts.operand.from(0), scale(pass, 0), batch_.batch, thread_ * query_panels / team_.size,
        (thread_ + 1) * query_panels / team_.size, [&](int64_t row, int64_t column, Floats value) {
          store(plan_.first_queries.row(row) + column, value);
        });
  }

  // Units of attention, a head of a text or a part of its queries, go to whoever is free.
  void attention(int64_t pass, bool firsts) {
    const int64_t items = batch_.batch * problem_.num_heads;
    int64_t parts = 1;
    if (!firsts && items < 4 * team_.size) {
      parts = larger(1, smaller((4 * team_.size + items - 1) / items, batch_.length / kQueriesWorthAnItem));
    }
    if (team_.size == 1 || items % team_.size == 0) {
      parts = 1;
    }
    for (;;) {
      const int64_t item = __atomic_fetch_add(&team_.next_item[pass], 1, __ATOMIC_RELAXED);
      if (item >= items * parts) {
        return;
      }
      const int64_t text = item / parts / problem_.num_heads, head = item / parts % problem_.num_heads;
      attend_item(pass, text, head, item % parts, parts, firsts);
    }
  }

  void attend_item(int64_t pass, int64_t index, int64_t head, int64_t part, int64_t parts, bool firsts) const {
    const Text& text = batch_.texts[index];
    const int64_t size = problem_.hidden_size / problem_.num_heads, length = text.end - text.begin;
    const int64_t first_query = firsts ? 0 : part * length / parts;
    const int64_t last_query = firsts ? 1 : (part + 1) * length / parts;
    const auto& queries = firsts ? plan_.first_queries : plan_.qkv;
    const Heads* const key = plan_.qkv.row(text.first_key) + problem_.hidden_size + head * size;
    const Head<Attention> work{
        queries.row(firsts ? index : text.begin + first_query) + head * size,
        queries.stride,
        key,
        key + problem_.hidden_size,
        plan_.qkv.stride,
        last_query - first_query,
        text.end - text.first_key,
        size,
        problem_.attention_scale};
    const Rows<Kind>& rows = firsts ? plan_.firsts : plan_.all;
    const int64_t first_row = firsts ? index : text.begin + first_query;
    const auto write = writer_for<Kind>(layer_of(pass).dense, scale(pass, 1));
    attend(
        work, plan_.scratch + thread_ * plan_.scratch_bytes,
        [&](int64_t query, int64_t channel, Floats value, bool whole) {
          const int64_t column = head * size + channel;
          Element* const place = rows.context.row(first_row + query) + column;
          if (whole) {
            write(place, column, value);
          } else {
            for (int64_t lane = 0; channel + lane < size; ++lane) {
              write(place + lane, column + lane, value[lane]);
            }
          }
        });
    if (head == problem_.num_heads - 1) {
      for (int64_t row = first_row; row < first_row + work.num_queries; ++row) {
        for (int64_t i = problem_.hidden_size; i < round_up(problem_.hidden_size, kPanel); ++i) {
          write(rows.context.row(row) + i, i, 0.0f);
        }
      }
    }
  }

  void normalize_mine(
      const Norm& norm, const Rows<Kind>& rows, int64_t first, int64_t count, const Smoother<Kind>& write) const {
    for (int64_t row = first + mine(count, member_); row < first + mine(count, member_ + 1); ++row) {
      normalize<Kind>(
          rows.y.row(row), problem_.hidden_size, norm, problem_.eps, rows.x.row(row), rows.operand.row(row), write);
    }
  }

  // What follows attention in a pass, on some rows: projection and residual, LayerNorm, feed-forward and residual,
  // LayerNorm.
  void finish(const Layer& layer, int64_t pass, const Rows<Kind>& rows, int64_t first, int64_t count) const {
    const int64_t group = thread_ / grid_.threads_in_group;
    const Matrix<Element> middle{plan_.middle.row(group * plan_.middle_rows), plan_.middle.stride};
    const Matrix<float> x{rows.x.row(first), rows.x.stride}, y{rows.y.row(first), rows.y.stride};
    const auto add_residual = [x, y](int64_t row, int64_t column, Floats value) {
      store(y.row(row) + column, value + load(x.row(row) + column));
    };
    apply_mine<Kind>(layer.dense, rows.context.from(first), scale(pass, 1), count, add_residual);
    wait_for_group();
    normalize_mine(layer.attention_norm, rows, first, count, writer_for<Kind>(layer.ffn, scale(pass, 2)));
    wait_for_group();
    const auto write = writer_for<Kind>(layer.ffn_output, scale(pass, 3));
    with_activation<Kind::rough>(problem_.activation, [&](auto activate) {
      apply_mine<Kind>(
          layer.ffn, rows.operand.from(first), scale(pass, 2), count,
          [=](int64_t row, int64_t column, Floats value) { write(middle.row(row) + column, column, activate(value)); });
    });
    wait_for_group();
    apply_mine<Kind>(layer.ffn_output, middle.from(0), scale(pass, 3), count, add_residual);
    wait_for_group();
    const int64_t next = smaller(pass + 1, problem_.passes - 1);  // behind the last pass nobody reads the operand
    normalize_mine(layer.output_norm, rows, first, count, writer_for<Kind>(layer_of(next).qkv, scale(next, 0)));
    wait_for_group();
  }

  // The last hidden state in the padded batch's places.
  void hand_out() const {
    const int64_t size = problem_.hidden_size, row_bytes = size * static_cast<int64_t>(sizeof(float));
    if (problem_.first_token_only) {
      for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
        memcpy(batch_.result + text * size, plan_.firsts.x.row(text), row_bytes);
      }
      return;
    }
    for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
      int64_t next = text * batch_.length;
      for (int64_t row = batch_.texts[text].begin; row < batch_.texts[text].end; ++row) {
        const int64_t place = batch_.position[row];
        memset(batch_.result + next * size, 0, (place - next) * row_bytes);
        memcpy(batch_.result + place * size, plan_.all.x.row(row), row_bytes);
        next = place + 1;
      }
      memset(batch_.result + next * size, 0, ((text + 1) * batch_.length - next) * row_bytes);
    }
  }
};

// Calls use(Kind{}, Attention{}) with the kinds that the encoder is of.
template <class Use>
inline auto with_kinds(const Encoder& problem, const Use& use) {
  switch (problem.layers[0].qkv.type) {
    case Type::float32:
      return use(Float32{}, Float32{});
    case Type::bfloat16:
      return use(BFloat16s{}, BFloat16s{});
    case Type::int8:
      break;
  }
  return problem.attention == Type::float32 ? use(UnsignedBytes{}, Float32{}) : use(UnsignedBytes{}, BFloat16s{});
}

int64_t workspace_bytes(const Encoder& problem, const Batch& batch, int64_t threads) {
  return with_kinds(problem, [&](auto kind, auto attention) {
    return Plan<decltype(kind), decltype(attention)>(problem, batch, threads, nullptr).bytes;
  });
}

void run(const Encoder& problem, const Batch& batch, Team& team, int64_t thread, char* workspace) {
  with_kinds(problem, [&](auto kind, auto attention) {
    const Plan<decltype(kind), decltype(attention)> plan(problem, batch, team.size, workspace);
    Thread<decltype(kind), decltype(attention)>(plan, team, thread).run();
  });
}

}  // namespace

const EncoderKernels encoder = {workspace_bytes, run};

}  // namespace albert_fast::ALBERT_FAST_ISA
