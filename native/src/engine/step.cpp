// See step.h.
#include "engine/step.h"

#include "model/embedding.h"

#include <algorithm>

namespace rwkv {

int64_t Step::logits() const {
    int64_t n = 0;
    for (const Scheduled &one : scheduled) n += one.sequence->draws_after(one.rows);
    return n;
}

int64_t Step::rows() const {
    int64_t n = 0;
    for (const Scheduled &one : scheduled) n += one.rows;
    return n;
}

bool Step::drop_guesses() noexcept {
    bool any = false;
    for (auto &[sequence, rows] : scheduled) {
        if (!sequence->decoding() || rows == sequence->certain) continue;
        rows = sequence->certain;
        any = true;
    }
    return any;
}

void Step::lay_out(const Model &model) {
    for (auto [sequence, rows] : scheduled) {
        const Request &request = sequence->request;
        const auto input = sequence->input(rows);
        spans.push_back({static_cast<int32_t>(tokens.size()), rows, sequence->state.number(),
                         &sequence->request.cache});
        tokens.insert(tokens.end(), input.begin(), input.end());
        depth = std::max(depth, sequence->embeds() ? embedding_layer(model, request.quick) + 1
                                                   : model.info().layers);
        if (sequence->embeds() && sequence->ends_with(rows)) embedded.push_back(sequence);
        const int32_t wanted = sequence->draws_after(rows);
        if (request.score)
            scores.push_back({sequence, logit_rows.size(), wanted, sequence->prefilled + 1});
        else if (wanted > 0)
            draws.push_back({sequence, logit_rows.size(), wanted, !sequence->decoding()});
        // The last ones, or those of a score: all but the prompt's last.
        const int32_t end =
            static_cast<int32_t>(tokens.size()) - (request.score ? rows - wanted : 0);
        for (int32_t i = wanted; i > 0; --i) logit_rows.push_back(end - i);
    }
}

void Step::discard() noexcept { draws.clear(), scores.clear(), embedded.clear(), asked.clear(); }

void Step::clear() noexcept {
    scheduled.clear(), tokens.clear(), logit_rows.clear(), spans.clear();
    depth = 0;
    discard();
    prompts_read.clear();
}

}  // namespace rwkv
